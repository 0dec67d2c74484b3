#include "runtime/api/session.hpp"

#include <climits>
#include <cstdlib>
#include <mutex>
#include <new>
#include <sstream>
#include <thread>

#include "runtime/api/public.hpp"
#include "runtime/api/trace_frame.hpp"

namespace ag::lazy {
namespace {

constexpr std::size_t max_segment = 4096;     ///< values after which a segment is closed anyway
constexpr std::size_t max_plans = 512;        ///< compiled structures kept
constexpr std::size_t max_records = 200'000;  ///< nodes of the trie kept

struct Flags {
  bool explain = false, cache = true;
  int opt_level = 2;
  int threads = 0;
};

/// AG_FLAGS, as the command reads them; unknown words are left to others.
const Flags& flags() {
  static const Flags parsed = [] {
    Flags f;
    const char* text = std::getenv("AG_FLAGS");
    std::istringstream words(text ? text : "");
    for (std::string w; words >> w;) {
      if (w == "--explain-recompiles") f.explain = true;
      if (w == "--no-cache") f.cache = false;
      if (w.size() == 3 && w.starts_with("-O") && w[2] >= '0' && w[2] <= '3') f.opt_level = w[2] - '0';
      if (w == "--threads") words >> f.threads;
    }
    return f;
  }();
  return parsed;
}

}  // namespace

Loc loc_of(const Place& place) {
  if (!place.line()) return {};
  return make_loc(place.file_name(), place.line(), place.column() ? place.column() : 1);
}

void raise(const Diags& diags) {
  Sources none;
  const Diag* first = nullptr;
  for (const Diag& d : diags)
    if (!first || (d.level == Level::error && first->level != Level::error)) first = &d;
  if (!first) throw api::Error("AG9001", "an error without a message; this is a bug of ag");
  throw api::Error(code_name(first->code), first->message, first->spans.empty() ? "" : first->spans[0].loc.str(),
                   render(diags, none));
}
void raise(Code code, const std::string& message, const Place& place) { raise({error(code, loc_of(place), message)}); }

// ---- Memory -----------------------------------------------------------------------------------------------------

Ref<Buffer> Buffer::allocate(std::size_t bytes) {
  constexpr std::size_t align = 64;
  void* memory = std::malloc(sizeof(Buffer) + align + (bytes ? bytes : 1));
  if (!memory) raise(Code::AG5010, "no memory for " + std::to_string(bytes) + " bytes");
  auto* b = new (memory) Buffer;
  auto at = reinterpret_cast<std::uintptr_t>(b + 1);
  b->data = reinterpret_cast<void*>((at + align - 1) / align * align);
  return Ref<Buffer>(b);
}
Ref<Buffer> Buffer::borrow(void* data) {
  void* memory = std::malloc(sizeof(Buffer));
  if (!memory) raise(Code::AG5010, "no memory");
  auto* b = new (memory) Buffer;
  b->data = data;
  return Ref<Buffer>(b);
}
void Buffer::destroy() {
  this->~Buffer();
  std::free(this);
}

void Value::destroy() {
  if (home) home->forget(index);
  delete this;
}
ValueRef Value::concrete(TypePtr type, Ref<Buffer> buffer) {
  ValueRef v(new Value);
  v->type = std::move(type);
  v->data = buffer->data;
  v->buffer = std::move(buffer);
  return v;
}
ValueRef Value::scalar(DType t, double real, std::int64_t integer) {
  static const std::vector<TypePtr> types = [] {
    std::vector<TypePtr> all;
    for (int i = 0; i < dtype_count; ++i) all.push_back(rec::TypeInfo::make(static_cast<DType>(i), {}));
    return all;
  }();
  ValueRef v(new Value);
  v->type = types[static_cast<std::size_t>(t)];
  v->data = &v->inline_bits;
  if (t == DType::f32) {
    const float f = static_cast<float>(real);
    std::memcpy(v->data, &f, sizeof f);
  } else if (t == DType::f64) {
    std::memcpy(v->data, &real, sizeof real);
  } else if (is_float(t)) {
    Array a = Array::scalar(t, real);
    std::memcpy(v->data, a.bytes().data(), a.bytes_size());
  } else {
    v->inline_bits = t == DType::boolean ? integer != 0 : integer;  // little endian
  }
  return v;
}

Array to_array(const Value& v) {
  return Array::from_bytes(v.dtype(), v.type->shape, {static_cast<const std::byte*>(v.data), v.type->bytes});
}
ValueRef from_array(const Array& a) {
  auto buffer = Buffer::allocate(a.bytes_size());
  if (a.bytes_size()) std::memcpy(buffer->data, a.bytes().data(), a.bytes_size());
  return Value::concrete(rec::TypeInfo::make(a.dtype(), a.shape()), std::move(buffer));
}

// ---- The engine ---------------------------------------------------------------------------------------------------

runtime::Engine& engine() {
  static Result<std::shared_ptr<runtime::Engine>> shared = runtime::Engine::create();
  if (!shared) raise(shared.error());
  return **shared;
}
const runtime::EngineOptions& engine_options() {
  static const runtime::EngineOptions options = [] {
    runtime::EngineOptions o;
    o.pipeline.opt_level = flags().opt_level;
    o.pipeline.verify_each = false;
    if (flags().cache) o.cache_folder = runtime::DiskCache::default_folder();
    return o;
  }();
  return options;
}
runtime::ExecOptions exec_options() {
  static const int threads = runtime::useful_threads(flags().threads > 0 ? flags().threads : INT_MAX);
  static const std::shared_ptr<runtime::ThreadPool> pool =
      threads > 1 ? std::make_shared<runtime::ThreadPool>(threads - 1) : nullptr;
  return {.threads = threads, .pool = pool};
}

// ---- Recording ----------------------------------------------------------------------------------------------------

Session::Session() {
  table_.resize(64);
  if (flags().explain) on_recompile = [](const std::string& line) { to_console("ag: " + line); };
  segment_.at = trie_.root();
  segment_.number = 1;
}
Session::~Session() { abandon("the thread that recorded this tensor has ended", {}); }

Session& Session::current() {
  static thread_local Session session;
  return session;
}

std::uint64_t Session::key_mix(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t z = seed + 0x9e3779b97f4a7c15ull * (n + 1);  // splitmix64
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

std::uint32_t* Session::find_slot(const Value* value, bool& found) {
  const std::size_t mask = table_.size() - 1;
  for (std::size_t i = (reinterpret_cast<std::uintptr_t>(value) >> 4) * 0x9e3779b97f4a7c15ull >> 20;; ++i) {
    Slot& s = table_[i & mask];
    if (s.segment != segment_.number) {
      s = {value, segment_.number, 0};
      found = false;
      return &s.index;
    }
    if (s.value == value) {
      found = true;
      return &s.index;
    }
  }
}
void Session::grow_table() {
  std::vector<Slot> old(table_.size() * 2);
  old.swap(table_);
  for (const Slot& s : old)
    if (s.segment == segment_.number) {
      bool found;
      *find_slot(s.value, found) = s.index;
    }
}

std::uint32_t Session::position(Value& value, const Place& place) {
  if (value.home == &segment_) [[likely]]
    return value.index;
  if (value.home)
    raise(Code::AG5401,
          "this tensor is being recorded elsewhere: by another thread (call eval() on it there first), "
          "or inside ag::trace",
          place);
  if (value.failed) raise(Code::AG5402, *value.failed, place);
  bool found;
  std::uint32_t* index = find_slot(&value, found);
  if (found) return *index;
  *index = static_cast<std::uint32_t>(segment_.values.size());
  const std::uint32_t result = *index;
  rec::Record record{.input = &value.type};
  rec::TrieNode* next = trie_.step(segment_.at, record);
  if (!next) {
    next = trie_.grow(segment_.at, record, {}, loc_of(place));
    if (!segment_.first_new) segment_.first_new = next;
  }
  segment_.at = next;
  segment_.values.push_back(nullptr);
  segment_.types.push_back(next->results[0]);
  segment_.inputs.emplace_back(&value);
  if (++table_used_ * 2 > table_.size()) grow_table();
  return result;
}

Session::Recorded Session::record(const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call,
                                  std::span<Value* const> operands, rec::Params params, Results& results,
                                  const Place& place) {
  if (frame) {
    frame->record(recipe, call, operands, params, results, place);
    return {};
  }
  if ((updated && grad_mode) || segment_.values.size() > max_segment) {
    updated = false;
    close();
  }
  std::uint32_t few[8];
  std::vector<std::uint32_t> many;
  std::uint32_t* positions = few;
  if (operands.size() > std::size(few)) many.resize(operands.size()), positions = many.data();
  for (std::size_t i = 0; i < operands.size(); ++i) positions[i] = position(*operands[i], place);
  rec::Record record{recipe, call.get(), {positions, operands.size()}, params, nullptr, remat};
  rec::TrieNode* next = trie_.step(segment_.at, record);
  if (!next) {
    std::vector<TypePtr> types;
    for (std::size_t i = 0; i < operands.size(); ++i) types.push_back(segment_.types[positions[i]]);
    try {
      next = trie_.grow(segment_.at, record, types, loc_of(place), call);
    } catch (const rec::Rejected& r) {
      raise(r.diags);
    } catch (const InternalError& e) {
      raise(Code::AG9001, e.message + " (" + e.file + ":" + std::to_string(e.line) + ")", place);
    }
    if (!segment_.first_new) segment_.first_new = next;
  }
  segment_.at = next;
  for (const TypePtr& t : next->results) {
    ValueRef v(new Value);
    v->home = &segment_;
    v->index = static_cast<std::uint32_t>(segment_.values.size());
    v->type = t;
    segment_.values.push_back(v.get());
    segment_.types.push_back(t);
    results.push_back(std::move(v));
  }
  return {next};
}

// ---- Closing ------------------------------------------------------------------------------------------------------

void Session::reset_segment() {
  segment_.values.clear();
  segment_.types.clear();
  segment_.inputs.clear();
  segment_.first_new = nullptr;
  ++segment_.number;
  remats = 0;
  table_used_ = 0;
  if (table_.size() > 4096) table_.assign(64, {});
  if (plans_ > max_plans || trie_.size() > max_records) {
    trie_.clear();
    derivatives_.clear();
    plans_ = 0;
  }
  segment_.at = trie_.root();
}

void Session::clear() {
  close();
  trie_.clear();
  derivatives_.clear();
  plans_ = 0;
}

void Session::abandon(const std::string& why, const Diags&) {
  auto text = std::make_shared<const std::string>(why);
  for (Value* v : segment_.values)
    if (v) {
      v->home = nullptr;
      v->failed = text;
    }
  reset_segment();
}

void Session::close() {
  live_.clear();
  for (std::uint32_t i = 0; i < segment_.values.size(); ++i)
    if (segment_.values[i]) live_.push_back(i);
  if (live_.empty()) return reset_segment();
  try {
    run(plan(segment_, live_), segment_);
  } catch (const api::Error& e) {
    abandon(e.what(), {});
    throw;
  }
  reset_segment();
}

void Session::run(Plan& plan, Segment& segment) {
  for (std::size_t i = 0; i < plan.inputs.size(); ++i) plan.inputs[i].data = segment.inputs[i]->data;
  Ref<Buffer> few[8];
  std::vector<Ref<Buffer>> many;
  Ref<Buffer>* buffers = few;
  if (plan.live.size() > std::size(few)) many.resize(plan.live.size()), buffers = many.data();
  for (std::size_t i = 0; i < plan.live.size(); ++i) {
    buffers[i] = Buffer::allocate(plan.outputs[i].bytes);
    plan.outputs[i].data = buffers[i]->data;
  }
  if (Status s = plan.context->run(plan.inputs, plan.outputs); !s) raise(s.error());
  for (std::size_t i = 0; i < plan.live.size(); ++i) {
    Value* v = segment.values[plan.live[i]];
    v->home = nullptr;
    v->data = buffers[i]->data;
    v->buffer = std::move(buffers[i]);
  }
}

void Session::explain(const Segment& segment, std::span<const std::uint32_t> live) {
  if (!on_recompile) return;
  std::string text = "compiling structure " + std::to_string(compilations) + ": ";
  if (!segment.first_new) {
    text += "the same operations as before, but " + std::to_string(live.size()) + " values are kept or read";
    const auto* known = static_cast<const Known*>(segment.at->attachment.get());
    if (known && !known->plans.empty()) text += " where it was " + std::to_string(known->plans.back()->live.size());
  } else {
    const rec::TrieNode& n = *segment.first_new;
    text += "record " + std::to_string(n.depth) + " is " + n.describe();
    if (n.loc.known()) text += " at " + n.loc.str();
    const rec::TrieNode* elder = n.parent->elder(n);
    text += elder ? "; before, it was " + elder->describe() : "; nothing followed there before";
  }
  on_recompile(text);
}

Plan& Session::plan(const Segment& segment, std::span<const std::uint32_t> live) {
  if (!segment.at->attachment) segment.at->attachment = std::make_unique<Known>();
  Known& known = static_cast<Known&>(*segment.at->attachment);
  for (auto& p : known.plans)
    if (std::equal(p->live.begin(), p->live.end(), live.begin(), live.end())) return *p;
  ++compilations;
  explain(segment, live);
  auto plan = std::make_unique<Plan>();
  plan->live.assign(live.begin(), live.end());
  try {
    auto compiled = engine().compile(rec::graph_of(*segment.at, live), engine_options());
    if (!compiled) raise(compiled.error());
    plan->executable = compiled->executable;
  } catch (const rec::Rejected& r) {
    raise(r.diags);
  } catch (const InternalError& e) {
    raise(Code::AG9001, e.message + " (" + e.file + ":" + std::to_string(e.line) + ")");
  }
  plan->context = std::make_unique<runtime::ExecContext>(plan->executable, exec_options());
  auto host = [](const TypePtr& t) { return runtime::HostArray{t->type.dtype, t->shape, nullptr, t->bytes}; };
  for (const ValueRef& v : segment.inputs) plan->inputs.push_back(host(v->type));
  for (std::uint32_t i : live) plan->outputs.push_back(host(segment.types[i]));
  ++plans_;
  known.plans.push_back(std::move(plan));
  return *known.plans.back();
}

void Session::materialise(Value& value, const Place& place) {
  if (value.home == &segment_) close();
  if (value.failed) raise(Code::AG5402, *value.failed, place);
  if (!value.home) return;
  for (TraceFrame* f = frame; f; f = f->outer())
    if (value.home == f)
      raise(Code::AG5403,
            "the value of a traced tensor is not known while it is traced: use ag::cond or ag::where to branch on it, "
            "ag::while_loop to loop on it",
            place);
  raise(Code::AG5401, "this tensor is being recorded by another thread; call eval() on it there first", place);
}

}  // namespace ag::lazy
