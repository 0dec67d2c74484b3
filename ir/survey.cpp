#include "ir/survey.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>

#include "ir/base/bytes.hpp"
#include "ir/base/sha256.hpp"
#include "ir/op.hpp"

namespace ag {
namespace {

/// Bytes of a constant from which only a digest of its pieces goes into the text that is hashed.
constexpr std::size_t large_bytes = 4096, piece_bytes = std::size_t{1} << 20;

using PieceDigest = std::array<std::uint64_t, 8>;

/// As fast as memory: eight chains, each step of which is one to one in the word and in what came before, so that a
/// single changed word always changes the digest, and others do but for one in 2^64. Not against forgers: those who
/// choose the constants choose the answers anyway.
PieceDigest piece_digest(const std::byte* data, std::size_t bytes) {
  constexpr std::uint64_t odd = 0x9E3779B97F4A7C15u;
  PieceDigest h;
  for (std::size_t lane = 0; lane < h.size(); ++lane) h[lane] = odd * (2 * lane + 1) ^ bytes;
  auto step = [&](const std::byte* from) {
    std::uint64_t w[8];
    std::memcpy(w, from, sizeof w);
    for (std::size_t lane = 0; lane < h.size(); ++lane) {
      h[lane] = (h[lane] ^ w[lane]) * odd;
      h[lane] ^= h[lane] >> 32;
    }
  };
  std::size_t at = 0;
  for (; at + 64 <= bytes; at += 64) step(data + at);
  if (at < bytes) {
    std::byte rest[64] = {};
    std::memcpy(rest, data + at, bytes - at);
    step(rest);
  }
  return h;
}

struct Piece {
  const std::byte* data;
  std::size_t bytes;
  PieceDigest digest;
};

void read_pieces(std::vector<Piece>& pieces, int threads) {
  std::atomic<std::size_t> next{0};
  auto work = [&] {
    for (std::size_t i; (i = next.fetch_add(1)) < pieces.size();)
      pieces[i].digest = piece_digest(pieces[i].data, pieces[i].bytes);
  };
  std::vector<std::jthread> others;
  try {
    while (static_cast<int>(others.size()) + 1 < threads && others.size() + 1 < pieces.size() / 2)
      others.emplace_back(work);
  } catch (const std::system_error&) {  // fewer threads do the same
  }
  work();
}

std::string place_text(const Loc& l, std::uint64_t file) {
  ByteWriter w;
  w.number(file);
  for (std::uint32_t n : {l.line, l.col, l.end_line, l.end_col}) w.number(n);
  w.text(l.pointer);
  return w.take();
}

class Surveyor {
 public:
  GraphSurvey run(const Graph& g, int threads) {
    graph(g);
    const auto start = std::chrono::steady_clock::now();
    read_pieces(pieces_, threads);
    for (const Piece& p : pieces_)
      for (std::uint64_t word : p.digest) w_.word(word);
    out_.contents_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    out_.digest = sha256_hex(std::as_bytes(std::span(w_.str())));
    return std::move(out_);
  }

 private:
  ByteWriter w_;
  GraphSurvey out_;
  std::unordered_map<const Literal*, std::size_t> literals_;
  std::unordered_map<std::string, std::size_t> files_, places_;
  std::vector<Piece> pieces_;

  void place(const Loc& l) {
    // Files are told apart, not named: a model may be moved.
    const std::uint64_t file = l.file ? files_.try_emplace(*l.file, files_.size() + 1).first->second : 0;
    auto [at, fresh] = places_.try_emplace(place_text(l, file), places_.size());
    w_.number(at->second);
    if (!fresh) return;
    out_.places.push_back(l);
    w_.text(at->first);
  }
  void id(ValueId v) { w_.number(v ? v.index + 1 : 0); }
  void type(const Type& t) {
    w_.number(static_cast<std::uint64_t>(t.dtype));
    w_.dims(t.shape);
  }

  void literal(const LiteralPtr& l) {
    if (!l) return w_.number(0);
    auto [at, fresh] = literals_.try_emplace(l.get(), literals_.size() + 1);
    w_.number(at->second);
    if (!fresh) return;
    out_.literals.push_back(l);
    w_.number(static_cast<std::uint64_t>(l->form));
    w_.number(static_cast<std::uint64_t>(l->dtype));
    w_.integers(l->shape);
    w_.number(l->inline_operand);
    switch (l->form) {
      case Literal::Form::splat: return w_.word(l->bits);
      case Literal::Form::random: return w_.text(l->distribution), w_.real(l->scale), w_.word(l->key);
      case Literal::Form::dense:
      case Literal::Form::file: break;
    }
    const auto bytes = l->array.bytes();
    if (bytes.size() < large_bytes) return w_.text({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    w_.number(bytes.size());
    for (std::size_t from = 0; from < bytes.size(); from += piece_bytes)
      pieces_.push_back({bytes.data() + from, std::min(piece_bytes, bytes.size() - from), {}});
  }

  void attribute(const AttrValue& value) {
    w_.number(value.index());
    struct Visitor {
      Surveyor& s;
      void operator()(std::int64_t x) const { s.w_.integer(x); }
      void operator()(double x) const { s.w_.real(x); }
      void operator()(bool x) const { s.w_.number(x); }
      void operator()(const std::string& x) const { s.w_.text(x); }
      void operator()(const std::vector<std::int64_t>& x) const { s.w_.integers(x); }
      void operator()(const std::vector<double>& x) const {
        s.w_.list(x, [&](double v) { s.w_.real(v); });
      }
      void operator()(const std::vector<std::string>& x) const {
        s.w_.list(x, [&](const std::string& v) { s.w_.text(v); });
      }
      void operator()(DType x) const { s.w_.number(static_cast<std::uint64_t>(x)); }
      void operator()(const Dims& x) const { s.w_.dims(x); }
      void operator()(const LiteralPtr& x) const { s.literal(x); }
      void operator()(const Type& x) const { s.type(x); }
    };
    std::visit(Visitor{*this}, value);
  }

  void node(const Graph& g, const Node& n) {
    w_.text(n.op->name);
    w_.list(n.operands, [&](ValueId v) { id(v); });
    w_.number(n.attrs.size());
    for (const auto& [name, value] : n.attrs) {
      w_.text(name);
      attribute(value);
    }
    w_.list(n.regions, [&](const GraphPtr& r) { graph(*r); });
    w_.text(n.name);
    w_.list(n.locs, [&](const Loc& l) { place(l); });
    id(n.grad_of);
    w_.number(n.remat);
    w_.number(n.result_count);
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      const Value& v = g.value(n.result(r));
      type(v.type);
      w_.text(v.name);
      w_.number(v.known_ints ? 1 : 0);
      if (v.known_ints) w_.dims(*v.known_ints);
    }
  }

  void request(const GradRequest& r) {
    auto texts = [&](const std::vector<std::string>& list) {
      w_.list(list, [&](const std::string& s) { w_.text(s); });
    };
    w_.text(r.of);
    texts(r.wrt);
    w_.number(r.trainable);
    w_.text(r.seed);
    w_.number(r.seed_value ? 1 : 0);
    w_.real(r.seed_value.value_or(0));
    w_.list(r.names, [&](const auto& n) { w_.text(n.first), w_.text(n.second); });
    texts(r.stop);
    w_.text(r.checkpoint);
    for (const Loc* l : {&r.loc, &r.of_loc, &r.seed_loc}) place(*l);
    for (const auto* list : {&r.wrt_locs, &r.stop_locs}) w_.list(*list, [&](const Loc& l) { place(l); });
  }

  void graph(const Graph& g) {
    w_.text(g.name);
    w_.text(g.stage);
    w_.integer(g.opset);
    w_.integer(g.ag_opset);
    w_.list(g.symbols, [&](const SymbolInfo& s) {
      w_.text(s.name);
      for (const auto& bound : {s.min, s.max, s.multiple_of}) {
        w_.number(bound ? 1 : 0);
        w_.integer(bound.value_or(0));
      }
      place(s.loc);
    });
    w_.list(g.inputs, [&](ValueId v) { id(v); });
    w_.number(g.node_count());
    for (NodeId n : g.node_ids()) node(g, g.node(n));
    w_.list(g.outputs, [&](const Output& o) {
      w_.text(o.name);
      id(o.value);
      place(o.loc);
    });
    w_.list(g.grads, [&](const GradRequest& r) { request(r); });
    w_.number(g.next_unbacked());
  }
};

/// Within one process files are known by name.
std::string named_place(const Loc& l) { return place_text(l, 0) + (l.file ? *l.file : std::string()); }

}  // namespace

GraphSurvey survey(const Graph& graph, int threads) { return Surveyor().run(graph, threads); }

PlaceIndex::PlaceIndex(const std::vector<Loc>& places) {
  for (std::size_t i = 0; i < places.size(); ++i) index_.try_emplace(named_place(places[i]), i + 1);
}

std::size_t PlaceIndex::find(const Loc& place) const {
  auto at = index_.find(named_place(place));
  return at == index_.end() ? 0 : at->second;
}

}  // namespace ag
