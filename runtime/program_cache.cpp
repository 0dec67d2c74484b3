#include "runtime/program_cache.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <numeric>
#include <thread>

#include "codegen/backend.hpp"
#include "ir/base/sha256.hpp"
#include "ir/loop/abi.hpp"
#include "ir/loop/storage.hpp"
#include "runtime/engine.hpp"

namespace ag::runtime {

extern const char* const program_source_hash;  // of the build

namespace {

using passes::Recipe;
using passes::RecipePtr;

/// Bytes of constants without recipes that an entry may hold.
constexpr std::size_t max_literal_bytes = std::size_t{16} << 20;

enum class Origin : std::uint64_t { graph, made, bytes };
enum class RecipeKind : std::uint64_t { graph, panels, factors };

// -- types, diagnostics --------------------------------------------------------------------------------------------

void write_type(ByteWriter& w, const Type& t) {
  w.number(static_cast<std::uint64_t>(t.dtype));
  w.dims(t.shape);
}
DType read_dtype(ByteReader& r) { return r.choice(static_cast<DType>(dtype_count_stored - 1)); }
Type read_type(ByteReader& r) {
  const DType t = read_dtype(r);
  return {t, r.dims()};
}

void write_ports(ByteWriter& w, const std::vector<Port>& ports) {
  w.list(ports, [&](const Port& p) {
    w.text(p.name);
    write_type(w, p.type);
  });
}
std::vector<Port> read_ports(ByteReader& r) {
  return r.list([&] {
    std::string name = r.text();
    return Port{std::move(name), read_type(r)};
  });
}

class PlaceWriter {
 public:
  PlaceWriter(ByteWriter& w, const PlaceIndex& places) : w_(w), places_(places) {}
  void operator()(const Loc& l) const {
    const std::size_t index = places_.find(l);
    w_.number(index);
    if (index) return;
    w_.number(l.file ? 1 : 0);
    w_.text(l.file ? *l.file : std::string());
    for (std::uint32_t n : {l.line, l.col, l.end_line, l.end_col}) w_.number(n);
    w_.text(l.pointer);
  }

 private:
  ByteWriter& w_;
  const PlaceIndex& places_;
};

class PlaceReader {
 public:
  PlaceReader(ByteReader& r, const std::vector<Loc>& places) : r_(r), places_(places) {}
  Loc operator()() const {
    if (const std::uint64_t index = r_.number(places_.size())) return places_[index - 1];
    Loc l;
    const bool known = r_.flag();
    std::string file = r_.text();
    if (known) l.file = std::make_shared<const std::string>(std::move(file));
    for (std::uint32_t* n : {&l.line, &l.col, &l.end_line, &l.end_col}) *n = r_.index();
    l.pointer = r_.text();
    return l;
  }

 private:
  ByteReader& r_;
  const std::vector<Loc>& places_;
};

void write_spans(ByteWriter& w, const std::vector<Span>& spans, const PlaceWriter& place) {
  w.list(spans, [&](const Span& s) {
    place(s.loc);
    w.text(s.label);
    w.number(s.primary);
  });
}
std::vector<Span> read_spans(ByteReader& r, const PlaceReader& place) {
  return r.list([&] {
    Span s;
    s.loc = place();
    s.label = r.text();
    s.primary = r.flag();
    return s;
  });
}

void write_diags(ByteWriter& w, const Diags& diags, const PlaceWriter& place) {
  w.list(diags, [&](const Diag& d) {
    w.number(static_cast<std::uint64_t>(d.level));
    w.number(static_cast<std::uint64_t>(d.code));
    w.text(d.message);
    write_spans(w, d.spans, place);
    w.list(d.children, [&](const SubDiag& c) {
      w.number(static_cast<std::uint64_t>(c.level));
      w.text(c.message);
      write_spans(w, c.spans, place);
      w.text(c.replacement);
      w.number(c.removal);
    });
  });
}
Diags read_diags(ByteReader& r, const PlaceReader& place) {
  return r.list([&] {
    Diag d;
    d.level = r.choice(Level::help);
    d.code = static_cast<Code>(r.number(UINT16_MAX));
    d.message = r.text();
    d.spans = read_spans(r, place);
    d.children = r.list([&] {
      SubDiag c;
      c.level = r.choice(Level::help);
      c.message = r.text();
      c.spans = read_spans(r, place);
      c.replacement = r.text();
      c.removal = r.flag();
      return c;
    });
    return d;
  });
}

// -- constants -----------------------------------------------------------------------------------------------------

/// Constants of a program: first the recipes, each after those that it uses, then an origin for each constant.
class ConstantWriter {
 public:
  ConstantWriter(const passes::ConstantRecipes& recipes, const LiteralIndex& literals)
      : recipes_(recipes), literals_(literals) {}

  /// False if some are too large to be kept.
  bool write(const loop::Program& program, ByteWriter& w) {
    ByteWriter origins;
    for (const loop::ProgramBuffer& b : program.buffers) {
      if (b.kind != loop::BufferKind::constant) continue;
      const Dim bytes = loop::byte_size(b);
      if (!b.constant || !bytes.valid() || !bytes.is_const()) return false;
      const LiteralPtr literal = recipes_.at(b.constant.get());
      if (literal && origin(literal, recipes_.find(literal), origins)) continue;
      if (!literal_bytes(origins, static_cast<const char*>(b.constant.get()), static_cast<std::size_t>(bytes.value())))
        return false;
    }
    w.number(made_.size());
    w.text(recipes_text_.str());
    w.text(origins.str());
    return true;
  }

 private:
  const passes::ConstantRecipes& recipes_;
  const LiteralIndex& literals_;
  std::map<const Recipe*, std::size_t> made_;
  ByteWriter recipes_text_;
  std::size_t bytes_ = 0;

  bool literal_bytes(ByteWriter& w, const char* data, std::size_t bytes) {
    bytes_ += bytes;
    if (bytes_ > max_literal_bytes) return false;
    w.number(static_cast<std::uint64_t>(Origin::bytes));
    w.text({data, bytes});
    return true;
  }

  /// False if nobody knows where it comes from.
  bool origin(const std::weak_ptr<const Literal>& literal, const RecipePtr& recipe, ByteWriter& w) {
    if (auto k = literals_.find(literal)) {
      w.number(static_cast<std::uint64_t>(Origin::graph));
      w.number(*k);
      return true;
    }
    auto index = recipe ? number_of(recipe) : std::nullopt;
    if (!index) return false;
    w.number(static_cast<std::uint64_t>(Origin::made));
    w.number(*index);
    return true;
  }

  // Recipes of recipes are few: one a pass.
  std::optional<std::size_t> number_of(const RecipePtr& recipe) {
    if (auto at = made_.find(recipe.get()); at != made_.end()) return at->second;
    ByteWriter w;
    w.number(recipe->operands.size());
    for (const Recipe::Operand& o : recipe->operands)
      if (!origin(o.literal, o.made, w)) return std::nullopt;
    w.number(static_cast<std::uint64_t>(recipe->panels    ? RecipeKind::panels
                                        : recipe->factors ? RecipeKind::factors
                                                          : RecipeKind::graph));
    if (const auto& f = recipe->factors) {
      const auto bytes = f->bytes();
      bytes_ += bytes.size();
      if (bytes_ > max_literal_bytes) return std::nullopt;
      w.integers(f->shape());
      w.text({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    } else if (const auto& p = recipe->panels) {
      for (const auto* list : {&p->shape, &p->strides, &p->outer, &p->contract}) w.integers(*list);
      w.integer(p->column), w.integer(p->width);
    } else {
      w.text(print(*recipe->graph));
    }
    recipes_text_.text(w.str());
    const std::size_t index = made_.size();
    made_.emplace(recipe.get(), index);
    return index;
  }
};

/// A value of an entry: element `index` of the graph's constants or of the recipes, or bytes.
struct Source {
  Origin origin;
  std::size_t index = 0;
  std::string_view bytes;
};

class ConstantReader {
 public:
  ConstantReader(GraphSurvey& survey, int threads)
      : survey_(survey), threads_(std::max(threads, 1)), uses_(survey.literals.size()) {}

  /// False if the constants do not fit the program or the graph.
  bool read(std::size_t count, std::string_view recipe_text, std::string_view origin_text, loop::Program& program) {
    ByteReader recipes(recipe_text), origins(origin_text);
    for (std::size_t i = 0; i < count && recipes.ok(); ++i) recipe(recipes.view());
    if (!recipes.done() || !ok_) return false;
    for (loop::ProgramBuffer& b : program.buffers) {
      if (b.kind != loop::BufferKind::constant) continue;
      wanted_.push_back({&b, source(origins, steps_.size())});
    }
    return origins.done() && ok_ &&
           std::all_of(wanted_.begin(), wanted_.end(), [&](const Wanted& w) { return fits(w); });
  }

  /// Fills the constants of the program.
  Status evaluate() {
    count_uses();
    const auto parts = groups();
    const bool side_by_side = parts.size() >= 2 * static_cast<std::size_t>(threads_);
    std::atomic<std::size_t> next{0};
    std::vector<Status> results(parts.size());
    auto work = [&] {
      for (std::size_t g; (g = next.fetch_add(1)) < parts.size();)
        for (std::size_t i : parts[g])
          if (results[g]) results[g] = compute(steps_[i], side_by_side ? 1 : threads_);
    };
    std::vector<std::jthread> others;
    try {
      for (int i = 1; side_by_side && i < threads_; ++i) others.emplace_back(work);
    } catch (const std::system_error&) {  // fewer threads do the same
    }
    work();
    others.clear();
    for (Status& s : results) AG_TRY_(std::move(s));
    for (Wanted& w : wanted_) place(w);
    return {};
  }

 private:
  struct Step {
    Recipe recipe;
    std::vector<Source> operands;
    Type type;
    std::size_t uses = 0;
    Array value;
  };
  struct Wanted {
    loop::ProgramBuffer* buffer;
    Source from;
  };

  GraphSurvey& survey_;
  const int threads_;
  bool ok_ = true;
  std::vector<Step> steps_;
  std::vector<Wanted> wanted_;
  std::vector<std::atomic<std::size_t>> uses_;  // of the graph's constants
  std::map<std::string_view, GraphPtr> graphs_;

  Source source(ByteReader& r, std::size_t steps) {
    Source s{r.choice(Origin::bytes)};
    if (s.origin == Origin::bytes)
      s.bytes = r.view();
    else
      s.index = r.index();
    const std::size_t count = s.origin == Origin::graph ? survey_.literals.size() : steps;
    if (!r.ok() || (s.origin != Origin::bytes && s.index >= count)) ok_ = false, r.refuse();
    return s;
  }

  void recipe(std::string_view text) {
    ByteReader r(text);
    Step s;
    s.operands = r.list([&] { return source(r, steps_.size()); });
    for (const Source& o : s.operands)
      if (o.origin == Origin::bytes) ok_ = false;
    const auto kind = r.choice(RecipeKind::factors);
    if (kind == RecipeKind::factors) {
      std::vector<std::int64_t> shape = r.integers();
      const std::string_view bytes = r.view();
      const auto size = Array::byte_size(DType::f64, shape);
      if (!size || *size != bytes.size()) return void(ok_ = false);
      s.recipe.factors = Array::from_bytes(DType::f64, std::move(shape), std::as_bytes(std::span(bytes)));
    } else if (kind == RecipeKind::panels) {
      passes::PanelLayout p;
      for (auto* list : {&p.shape, &p.strides, &p.outer, &p.contract}) *list = r.integers();
      p.column = r.integer(), p.width = r.integer();
      s.recipe.panels = std::move(p);
    } else if (const std::string_view graph = r.view(); r.ok()) {
      GraphPtr& known = graphs_[graph];
      if (!known)
        if (auto parsed = parse_graph(graph, "<recipe>")) known = std::make_shared<const Graph>(std::move(*parsed));
      s.recipe.graph = known;
    }
    s.recipe.operands.resize(s.operands.size());
    if (!r.done()) ok_ = false;
    if (!ok_) return;
    std::vector<Type> types;
    for (const Source& o : s.operands) types.push_back(type_of(o));
    auto type = passes::recipe_type(s.recipe, types);
    if (!type) return void(ok_ = false);
    s.type = std::move(*type);
    steps_.push_back(std::move(s));
  }

  Type type_of(const Source& s) const {
    if (s.origin == Origin::made) return steps_[s.index].type;
    const Literal& l = *survey_.literals[s.index];
    return {l.dtype, Dims(l.shape.begin(), l.shape.end())};
  }

  bool fits(const Wanted& w) const {
    const Dim bytes = loop::byte_size(*w.buffer);
    if (!bytes.valid() || !bytes.is_const() || bytes.value() < 0) return false;
    const auto size = static_cast<std::size_t>(bytes.value());
    if (w.from.origin == Origin::bytes) return w.from.bytes.size() == size;
    const Type t = type_of(w.from);
    return t.dtype == w.buffer->dtype && Array::byte_size(t.dtype, *static_shape(t.shape)) == size;
  }

  /// Groups of recipes that have nothing to do with one another.
  std::vector<std::vector<std::size_t>> groups() {
    std::vector<std::size_t> parent(steps_.size());
    std::iota(parent.begin(), parent.end(), std::size_t{0});
    auto root = [&](std::size_t i) {
      while (parent[i] != i) i = parent[i] = parent[parent[i]];
      return i;
    };
    for (std::size_t i = 0; i < steps_.size(); ++i)
      for (const Source& o : steps_[i].operands)
        if (o.origin == Origin::made) parent[root(i)] = root(o.index);
    std::map<std::size_t, std::vector<std::size_t>> by_root;
    for (std::size_t i = 0; i < steps_.size(); ++i) by_root[root(i)].push_back(i);
    std::vector<std::pair<std::size_t, std::vector<std::size_t>>> sized;
    for (auto& [r, members] : by_root) {
      std::size_t bytes = 0;
      for (std::size_t i : members)
        for (const Source& o : steps_[i].operands)
          if (o.origin == Origin::graph) {
            const Literal& l = *survey_.literals[o.index];
            bytes += Array::byte_size(l.dtype, l.shape).value_or(0);
          }
      sized.emplace_back(bytes, std::move(members));
    }
    std::stable_sort(sized.begin(), sized.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<std::vector<std::size_t>> out;
    for (auto& [bytes, members] : sized) out.push_back(std::move(members));
    return out;
  }

  void count_uses() {
    auto count = [&](const Source& s) {
      if (s.origin == Origin::graph) ++uses_[s.index];
      if (s.origin == Origin::made) ++steps_[s.index].uses;
    };
    for (const Step& s : steps_)
      for (const Source& o : s.operands) count(o);
    for (const Wanted& w : wanted_) count(w.from);
    for (std::size_t i = 0; i < uses_.size(); ++i)
      if (uses_[i] == 0) survey_.literals[i] = nullptr;
  }

  Status compute(Step& s, int threads) {
    std::vector<Array> operands;
    for (const Source& o : s.operands)
      operands.push_back(o.origin == Origin::graph ? survey_.literals[o.index]->materialize() : steps_[o.index].value);
    AG_TRY(s.value, passes::evaluate(s.recipe, operands, threads));
    operands.clear();
    for (const Source& o : s.operands) {  // what nobody needs any more is released
      if (o.origin == Origin::graph && --uses_[o.index] == 0) survey_.literals[o.index] = nullptr;
      if (o.origin == Origin::made && --steps_[o.index].uses == 0) steps_[o.index].value = Array();
    }
    return {};
  }

  void place(const Wanted& w) {
    Array value;
    switch (w.from.origin) {
      case Origin::graph: value = survey_.literals[w.from.index]->materialize(); break;
      case Origin::made: value = steps_[w.from.index].value; break;
      case Origin::bytes: {
        const auto size = static_cast<std::int64_t>(w.from.bytes.size());
        value = Array::from_bytes(DType::u8, {size}, std::as_bytes(std::span(w.from.bytes)));
        break;
      }
    }
    w.buffer->constant = std::shared_ptr<const void>(value.shared_bytes(), value.bytes().data());
  }
};

}  // namespace

// -- keys ----------------------------------------------------------------------------------------------------------

std::string program_key(const GraphSurvey& survey, const TargetSpec& t, const EngineOptions& o) {
  ByteWriter w;
  for (const std::string& s :
       {survey.digest, t.name, t.cpu, t.features, std::string(program_source_hash),
        fmt::format("{}", fmt::join(o.pipeline.passes, ",")), fmt::format("{}", fmt::join(o.pipeline.disabled, ","))})
    w.text(s);
  for (std::int64_t n :
       {std::int64_t{t.vector_bits}, std::int64_t{t.vector_registers}, std::int64_t{t.masked_ops},
        std::int64_t{t.l1_bytes}, std::int64_t{t.l2_bytes}, std::int64_t{t.l3_bytes}, std::int64_t{t.threads},
        std::int64_t{o.pipeline.opt_level}, std::int64_t{o.fast_math}, std::int64_t{o.winograd_tile}, o.memory_limit,
        std::int64_t{o.line_info}, std::int64_t{loop::abi_version}})
    w.integer(n);
  return "program-" + sha256_hex(std::as_bytes(std::span(w.str()))) + "-" + codegen::code_version();
}

bool program_may_be_kept(const EngineOptions& options) {
  const passes::PipelineOptions& p = options.pipeline;
  return options.use_cache && !options.cache_folder.empty() && options.keep_programs && !p.track_changes &&
         p.print_before.empty() && p.print_after.empty() && p.dump_dir.empty() && p.stop_after.empty() &&
         p.print_change == passes::PipelineOptions::Change::none;
}

LiteralIndex::LiteralIndex(const std::vector<LiteralPtr>& literals) {
  for (std::size_t i = 0; i < literals.size(); ++i) index_.try_emplace(literals[i], i);
}

std::optional<std::size_t> LiteralIndex::find(const std::weak_ptr<const Literal>& literal) const {
  auto at = index_.find(literal);
  return at == index_.end() ? std::nullopt : std::optional(at->second);
}

// -- entries -------------------------------------------------------------------------------------------------------

std::optional<std::string> write_entry(const KeptProgram& kept, const passes::ConstantRecipes& recipes,
                                       const LiteralIndex& literals, const PlaceIndex& places) {
  ByteWriter w;
  const PlaceWriter place(w, places);
  for (const auto* ports : {&kept.inputs, &kept.outputs, &kept.states}) write_ports(w, *ports);
  write_program(w, kept.program, place);
  if (!ConstantWriter(recipes, literals).write(kept.program, w)) return std::nullopt;
  std::map<const CompiledKernel*, std::size_t> numbers;
  std::vector<const CompiledKernel*> objects;
  for (const CompiledKernelRef& o : kept.objects)
    if (numbers.emplace(o.get(), objects.size()).second) objects.push_back(o.get());
  w.list(objects, [&](const CompiledKernel* o) {
    w.text(o->symbol);
    w.text(o->bytes);
  });
  for (std::size_t i = 0; i < kept.objects.size(); ++i) {
    w.number(numbers.at(kept.objects[i].get()));
    w.number(kept.statements[i]);
    write_footprint(w, kept.footprints[i]);
  }
  write_diags(w, kept.warnings, place);
  w.list(kept.fusion, [&](const std::string& s) { w.text(s); });
  return w.take();
}

Result<std::optional<KeptProgram>> read_entry(std::string_view entry, GraphSurvey& survey, int threads,
                                              const std::function<void()>& found, double& constants_ms) {
  ByteReader r(entry);
  const PlaceReader place(r, survey.places);
  KeptProgram out;
  for (auto* ports : {&out.inputs, &out.outputs, &out.states}) *ports = read_ports(r);
  out.program = read_program(r, place);
  const std::size_t constant_count = r.number();
  const std::string_view recipes = r.view(), origins = r.view();
  std::vector<CompiledKernelRef> objects = r.list([&] {
    std::string symbol = r.text();
    return std::make_shared<const CompiledKernel>(CompiledKernel{std::move(symbol), r.text()});
  });
  for (std::size_t i = 0; i < out.program.kernels.size() && r.ok(); ++i) {
    const std::uint64_t object = r.number();
    if (object >= objects.size()) return std::optional<KeptProgram>();
    out.objects.push_back(objects[object]);
    out.statements.push_back(r.number());
    out.footprints.push_back(read_footprint(r));
  }
  out.warnings = read_diags(r, place);
  out.fusion = r.list([&] { return r.text(); });
  ConstantReader constants(survey, threads);
  if (!r.done() || !constants.read(constant_count, recipes, origins, out.program)) return std::optional<KeptProgram>();
  found();
  const auto start = std::chrono::steady_clock::now();
  AG_TRY_(constants.evaluate());
  constants_ms += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return out;
}

}  // namespace ag::runtime
