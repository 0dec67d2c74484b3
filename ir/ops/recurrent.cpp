// RNN, GRU and LSTM, as a Scan per direction. The products with the inputs do not depend on the state: one product
// before the loop makes them for all steps.
#include <cctype>

#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

enum class Kind : std::uint8_t { rnn, gru, lstm };

constexpr std::int64_t gate_count(Kind k) { return k == Kind::rnn ? 1 : k == Kind::gru ? 3 : 4; }
constexpr std::size_t activation_count(Kind k) { return k == Kind::rnn ? 1 : k == Kind::gru ? 2 : 3; }

std::int64_t direction_count(const Attrs& a) {
  return attr_string(a, "direction", "forward") == "bidirectional" ? 2 : 1;
}

/// Operands in ONNX's order; Xs of GRU and RNN end with initial_h.
enum : std::size_t { in_x, in_w, in_r, in_b, in_lengths, in_h, in_c, in_p };

// ---- Activations ------------------------------------------------------------------------------------------

/// Defaults as ONNX Runtime's; `alphas`, `betas`: the function takes one from the lists.
struct ActivationInfo {
  std::string_view name;
  bool has_alpha = false, has_beta = false;
  double alpha = 0, beta = 0;
};
constexpr ActivationInfo activation_table[] = {
    {"relu"},
    {"tanh"},
    {"sigmoid"},
    {"affine", true, true, 1, 0},
    {"leakyrelu", true, false, 0.01, 0},
    {"thresholdedrelu", true, false, 1, 0},
    {"scaledtanh", true, true, 1, 1},
    {"hardsigmoid", true, true, 0.2, 0.5},
    {"elu", true, false, 1, 0},
    {"softsign"},
    {"softplus"},
};

std::string lower_case(std::string s) {
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s;
}

const ActivationInfo* find_activation(const std::string& name) {
  for (const ActivationInfo& a : activation_table)
    if (a.name == lower_case(name)) return &a;
  return nullptr;
}

/// All activations, direction by direction, with their parameters.
std::vector<ActivationInfo> activations(Kind kind, const Attrs& attrs) {
  auto names = attrs.get_or<std::vector<std::string>>("activations", {});
  auto alphas = attrs.get_or<std::vector<double>>("activation_alpha", {}),
       betas = attrs.get_or<std::vector<double>>("activation_beta", {});
  if (names.empty())
    for (std::int64_t d = 0; d < direction_count(attrs); ++d) {
      if (kind != Kind::rnn) names.push_back("Sigmoid");
      names.push_back("Tanh");
      if (kind == Kind::lstm) names.push_back("Tanh");
    }
  std::vector<ActivationInfo> out;
  std::size_t alpha = 0, beta = 0;
  for (const std::string& name : names) {
    ActivationInfo a = *find_activation(name);
    if (a.has_alpha && alpha < alphas.size()) a.alpha = alphas[alpha++];
    if (a.has_beta && beta < betas.size()) a.beta = betas[beta++];
    out.push_back(a);
  }
  return out;
}

Expr apply(const ActivationInfo& a, Expr x) {
  Builder& b = x.builder();
  if (a.name == "tanh") return call("tanh", x);
  if (a.name == "sigmoid") return call("sigmoid", x);
  if (a.name == "affine") return a.alpha * x + a.beta;
  if (a.name == "scaledtanh") return a.alpha * call("tanh", a.beta * x);
  if (a.name == "relu") return x.with(b.add_op("Relu", {x}));
  if (a.name == "softsign") return x.with(b.add_op("Softsign", {x}));
  if (a.name == "softplus") return x.with(b.add_op("Softplus", {x}));
  if (a.name == "leakyrelu") return x.with(b.add_op("LeakyRelu", {x}, {{"alpha", a.alpha}}));
  if (a.name == "thresholdedrelu") return x.with(b.add_op("ThresholdedRelu", {x}, {{"alpha", a.alpha}}));
  if (a.name == "elu") return x.with(b.add_op("Elu", {x}, {{"alpha", a.alpha}}));
  return x.with(b.add_op("HardSigmoid", {x}, {{"alpha", a.alpha}, {"beta", a.beta}}));
}

// ---- One step -----------------------------------------------------------------------------------------------

struct Cell {
  Kind kind;
  Dim batch, hidden;
  std::vector<ActivationInfo> f;  ///< of this direction
  double clip = 0;                ///< 0: none
  bool couple = false;            ///< LSTM: the forget gate is 1 - input gate
  bool reset_after = false;       ///< GRU: linear_before_reset
};

/// Values of one step; `x`: [batch, gates hidden], inputs times weights, with biases.
struct Step {
  ValueId h, c, x;
  ValueId r;          ///< [gates hidden, hidden]
  ValueId r_new;      ///< GRU that resets before the product: the rows of the new state's gate, which `r` lacks
  ValueId r_bias;     ///< GRU that resets after the product: [gates hidden]
  ValueId peepholes;  ///< LSTM: [3 hidden] for i, o, f
};

class StepBuilder {
 public:
  StepBuilder(Builder& b, const Cell& cell) : b_(b), cell_(cell) {}

  void run(Step& s) {
    switch (cell_.kind) {
      case Kind::rnn: s.h = act(0, Expr(b_, s.x) + recurrent(s.h, s.r)); break;
      case Kind::gru: gru(s); break;
      case Kind::lstm: lstm(s); break;
    }
  }

 private:
  Builder& b_;
  const Cell& cell_;

  Expr act(std::size_t i, Expr x) {
    if (cell_.clip > 0) x = x.with(b_.add_op("Clip", {x, x.lit(-cell_.clip), x.lit(cell_.clip)}));
    return apply(cell_.f[i], x);
  }

  /// Columns of gate k.
  Expr gate(ValueId x, std::int64_t k, std::int64_t count = 1) {
    return {b_, b_.slice(x, {0, cell_.hidden * k}, {cell_.batch, cell_.hidden * (k + count)})};
  }
  /// h times the transpose of R.
  Expr recurrent(ValueId h, ValueId r) { return {b_, b_.dot_general(h, r, {1}, {1})}; }
  Expr row(ValueId v, std::int64_t k, std::int64_t count = 1) {
    return {b_, b_.slice(v, {cell_.hidden * k}, {cell_.hidden * (k + count)})};
  }

  void gru(Step& s) {
    Expr h(b_, s.h);
    if (cell_.reset_after) {
      Expr hr = recurrent(h, s.r);
      if (s.r_bias) hr = hr + Expr(b_, s.r_bias);
      Expr z = act(0, gate(s.x, 0) + gate(hr, 0)), r = act(0, gate(s.x, 1) + gate(hr, 1));
      Expr n = act(1, gate(s.x, 2) + r * gate(hr, 2));
      s.h = (1.0 - z) * n + z * h;
      return;
    }
    Expr zr = gate(s.x, 0, 2) + recurrent(h, s.r);
    Expr z = act(0, gate(zr, 0)), r = act(0, gate(zr, 1));
    Expr n = act(1, gate(s.x, 2) + recurrent(r * h, s.r_new));
    s.h = (1.0 - z) * n + z * h;
  }

  void lstm(Step& s) {
    Expr all = Expr(b_, s.x) + recurrent(s.h, s.r), c(b_, s.c);
    auto peep = [&](Expr x, std::int64_t k, Expr cell) { return s.peepholes ? x + row(s.peepholes, k) * cell : x; };
    Expr i = act(0, peep(gate(all, 0), 0, c));
    Expr f = cell_.couple ? 1.0 - i : act(0, peep(gate(all, 2), 2, c));
    Expr now = f * c + i * act(1, gate(all, 3));
    Expr o = act(0, peep(gate(all, 1), 1, now));
    // The hidden activation takes the cell itself: ONNX clips what enters the gates.
    s.h = o * apply(cell_.f[2], now);
    s.c = now;
  }
};

// ---- The loop over the steps ------------------------------------------------------------------------------------

/// One direction: [T, batch, hidden] of all hidden states, the last hidden state, the last cell.
struct Run {
  ValueId all, h, c;
};

Run run_scan(Builder& b, const View& n, const Cell& cell, Step first, const Dim& length, bool backwards) {
  auto body = std::make_shared<Graph>();
  body->opset = b.graph().opset;
  Builder r(*body);
  r.set_origin(n.node().locs);
  GraphBuilder::NodeArgs args;
  Step s;
  auto pass = [&](ValueId outer, Type inside) {
    if (!outer) return ValueId{};
    args.operands.push_back(outer);
    return r.input("", std::move(inside));
  };
  auto same = [&](ValueId outer) { return pass(outer, outer ? Type(b.type(outer)) : Type()); };
  s.h = same(first.h);
  s.c = same(first.c);
  Type element = b.type(first.x);
  element.shape.erase(element.shape.begin());
  s.x = pass(first.x, element);
  ValueId lengths = n.has(in_lengths) ? b.convert(n.operand(in_lengths), DType::i64) : ValueId{}, step;
  std::int64_t sequences = 1;
  if (lengths) {
    step = pass(b.iota({DType::i64, {length}}, 0), {DType::i64, {}});
    ++sequences;
  }
  std::size_t own = args.operands.size();
  s.r = same(first.r);
  s.r_new = same(first.r_new);
  s.r_bias = same(first.r_bias);
  s.peepholes = same(first.peepholes);
  ValueId limit = same(lengths);
  args.attrs = {{"num_scan_inputs", sequences},
                {"captures", static_cast<std::int64_t>(args.operands.size() - own)},
                {"scan_input_directions", Ints(static_cast<std::size_t>(sequences), backwards)},
                {"scan_output_directions", Ints{backwards}}};
  ValueId h = s.h, c = s.c;
  StepBuilder(r, cell).run(s);
  ValueId y = s.h;
  if (limit) {  // behind its end a sequence keeps its state and gives zeros
    Type t = r.type(s.h);
    ValueId inside = r.broadcast_in_dim(r.compare("lt", step, limit), t.shape, {0});
    y = r.select(inside, s.h, r.scalar(t.dtype, 0));
    s.h = r.select(inside, s.h, h);
    if (c) s.c = r.select(inside, s.c, c);
  }
  body->outputs.push_back({"", s.h, {}});
  if (c) body->outputs.push_back({"", s.c, {}});
  body->outputs.push_back({"", y, {}});
  args.regions = {body};
  auto id = b.try_add(op("Scan"), std::move(args));
  if (!id) internal_error("a recurrent op built a wrong Scan: " + id.error()[0].message, __FILE__, __LINE__);
  const Node& scan = b.graph().node(*id);
  if (!c) return {scan.result(1), scan.result(0), {}};
  return {scan.result(2), scan.result(0), scan.result(1)};
}

/// Part `d` of the leading axis, which goes.
ValueId part(Builder& b, ValueId v, std::int64_t d) {
  Dims limit = b.type(v).shape, start(limit.size()), rest(limit.begin() + 1, limit.end());
  start[0] = d;
  limit[0] = d + 1;
  return b.reshape(b.slice(v, start, limit), rest);
}

ValueId batch_second(Builder& b, ValueId v, bool batch_first) { return batch_first ? b.transpose(v, {1, 0, 2}) : v; }

class Recurrent {
 public:
  Recurrent(Builder& b, const View& n, Kind kind) : b_(b), n_(n), kind_(kind) {
    const Attrs& a = n.attrs();
    batch_first_ = attr_int(a, "layout", 0) != 0;
    x_ = batch_second(b, n.operand(in_x), batch_first_);
    const Dims& x = b.type(x_).shape;
    length_ = x[0];
    cell_ = {kind,
             x[1],
             n.in(in_r).shape[2],
             {},
             attr_number(a, "clip", 0),
             attr_int(a, "input_forget", 0) != 0,
             attr_int(a, "linear_before_reset", 0) != 0};
  }

  std::vector<ValueId> results() {
    std::int64_t count = direction_count(n_.attrs());
    bool first_backwards = attr_string(n_.attrs(), "direction", "forward") == "reverse";
    std::vector<ValueId> all, h, c;
    Dims each{length_, 1, cell_.batch, cell_.hidden}, last{1, cell_.batch, cell_.hidden};
    for (std::int64_t d = 0; d < count; ++d) {
      Run r = direction(d, d == 1 || first_backwards);
      all.push_back(b_.reshape(r.all, each));
      h.push_back(b_.reshape(r.h, last));
      if (r.c) c.push_back(b_.reshape(r.c, last));
    }
    ValueId y = b_.concat(all, 1);
    std::vector<ValueId> out{batch_first_ ? b_.transpose(y, {2, 0, 1, 3}) : y,
                             batch_second(b_, b_.concat(h, 0), batch_first_)};
    if (!c.empty()) out.push_back(batch_second(b_, b_.concat(c, 0), batch_first_));
    return out;
  }

 private:
  Builder& b_;
  const View& n_;
  Kind kind_;
  bool batch_first_ = false;
  ValueId x_;
  Dim length_;
  Cell cell_;

  ValueId state(std::size_t operand, std::int64_t d) {
    Type t{b_.type(x_).dtype, {cell_.batch, cell_.hidden}};
    if (!n_.has(operand)) return b_.zeros(t);
    return b_.reshape(part(b_, batch_second(b_, n_.operand(operand), batch_first_), d), t.shape);
  }

  Run direction(std::int64_t d, bool backwards) {
    std::vector<ActivationInfo> f = activations(kind_, n_.attrs());
    auto per = static_cast<std::ptrdiff_t>(activation_count(kind_));
    cell_.f.assign(f.begin() + d * per, f.begin() + (d + 1) * per);
    Step s;
    s.h = state(in_h, d);
    if (kind_ == Kind::lstm) s.c = state(in_c, d);
    s.r = part(b_, n_.operand(in_r), d);
    if (kind_ == Kind::gru && !cell_.reset_after) {
      Dim two = cell_.hidden * 2;
      s.r_new = b_.slice(s.r, {two, 0}, {cell_.hidden * 3, cell_.hidden});
      s.r = b_.slice(s.r, {0, 0}, {two, cell_.hidden});
    }
    s.x = b_.dot_general(x_, part(b_, n_.operand(in_w), d), {2}, {1});
    if (n_.has(in_b)) {
      Dim rows = cell_.hidden * gate_count(kind_);
      ValueId both = part(b_, n_.operand(in_b), d), own = b_.slice(both, {0}, {rows}),
              recurrent = b_.slice(both, {rows}, {rows * 2});
      bool apart = kind_ == Kind::gru && cell_.reset_after;
      if (apart) s.r_bias = recurrent;
      s.x = b_.add(s.x, apart ? own : b_.add(own, recurrent));
    }
    if (kind_ == Kind::lstm && n_.has(in_p)) s.peepholes = part(b_, n_.operand(in_p), d);
    if (!length_.is(1) || n_.has(in_lengths)) return run_scan(b_, n_, cell_, s, length_, backwards);
    s.x = part(b_, s.x, 0);
    StepBuilder(b_, cell_).run(s);
    return {b_.reshape(s.h, {1, cell_.batch, cell_.hidden}), s.h, s.c};
  }
};

template <Kind kind>
std::vector<ValueId> decompose(Builder& b, const View& n) {
  return Recurrent(b, n, kind).results();
}

// ---- Type rule ----------------------------------------------------------------------------------------------------

bool differ(const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; }

template <Kind kind>
Types infer(const InferCtx& c) {
  std::string_view title = op_title(c);
  auto wrong = [&](std::size_t i, const std::string& wanted) {
    return c.error(Code::AG2204,
                   fmt::format("`{}`: {} is {}, but must be {}", title, operand_name(c, i), c.in(i).str(), wanted), {},
                   {i});
  };
  std::int64_t d = direction_count(c.attrs()), gates = gate_count(kind);
  bool batch_first = attr_int(c.attrs(), "layout", 0) != 0;
  for (std::size_t i : {in_x, in_w, in_r})
    if (c.in(i).rank() != 3) return wrong(i, "of rank 3");
  const Dims& x = c.in(in_x).shape;
  Dim length = x[batch_first], batch = x[!batch_first], hidden = c.in(in_r).shape[2];
  if (std::int64_t h = attr_int(c.attrs(), "hidden_size", 0); h > 0) {
    if (differ(hidden, h)) return wrong(in_r, fmt::format("[{}, {}, {}] (`hidden_size` is {})", d, gates * h, h, h));
  }
  auto check = [&](std::size_t i, Dims want) -> Status {
    if (!c.has(i)) return {};
    const Dims& is = c.in(i).shape;
    bool fits = is.size() == want.size();
    for (std::size_t k = 0; fits && k < want.size(); ++k) fits = !differ(is[k], want[k]);
    if (!fits) return wrong(i, shape_str(want));
    return {};
  };
  AG_TRY_(check(in_w, {d, hidden * gates, x[2]}));
  AG_TRY_(check(in_r, {d, hidden * gates, hidden}));
  AG_TRY_(check(in_b, {d, hidden * gates * 2}));
  AG_TRY_(check(in_lengths, {batch}));
  Dims state = batch_first ? Dims{batch, d, hidden} : Dims{d, batch, hidden};
  AG_TRY_(check(in_h, state));
  AG_TRY_(check(in_c, state));
  AG_TRY_(check(in_p, {d, hidden * 3}));
  auto names = c.attrs().get_or<std::vector<std::string>>("activations", {});
  std::size_t want = activation_count(kind) * static_cast<std::size_t>(d);
  if (!names.empty() && names.size() != want)
    return c.error(Code::AG2206,
                   fmt::format("`{}` takes {} activations here, and {} are given", title, want, names.size()));
  for (const std::string& name : names)
    if (!find_activation(name)) return c.error(Code::AG2206, fmt::format("`{}` has no activation `{}`", title, name));
  DType t = c.in(in_x).dtype;
  Type all{t, batch_first ? Dims{batch, length, d, hidden} : Dims{length, d, batch, hidden}};
  std::vector<Type> out{std::move(all), {t, state}};
  if (kind == Kind::lstm) out.push_back({t, state});
  return out;
}

// ---- Records -------------------------------------------------------------------------------------------------------

template <Kind kind>
std::vector<OpSample> samples() {
  auto g = gate_count(kind);
  auto t = [](std::string_view dtype, std::initializer_list<std::int64_t> shape) {
    return fmt::format("{}[{}]", dtype, fmt::join(shape, ","));
  };
  auto make = [&](std::string_view dtype, std::int64_t length, std::int64_t d, bool full, Attrs attrs) {
    OpSample s;
    bool batch_first = attr_int(attrs, "layout", 0) != 0;
    constexpr std::int64_t batch = 2, inputs = 3, hidden = 2;
    s.operands = {batch_first ? sample_operand(t(dtype, {batch, length, inputs}), -1, 1)
                              : sample_operand(t(dtype, {length, batch, inputs}), -1, 1),
                  sample_operand(t(dtype, {d, g * hidden, inputs}), -1, 1),
                  sample_operand(t(dtype, {d, g * hidden, hidden}), -1, 1)};
    if (full) {
      std::string state = batch_first ? t(dtype, {batch, d, hidden}) : t(dtype, {d, batch, hidden});
      s.operands.push_back(sample_operand(t(dtype, {d, 2 * g * hidden}), -1, 1));
      s.operands.push_back(sample_operand("i32[2]", 1, static_cast<double>(length)));
      s.operands.push_back(sample_operand(state, -1, 1));
      if (kind == Kind::lstm) {
        s.operands.push_back(sample_operand(state, -1, 1));
        s.operands.push_back(sample_operand(t(dtype, {d, 3 * hidden}), -1, 1));
      }
    }
    attrs.set("hidden_size", hidden);
    s.attrs = std::move(attrs);
    return s;
  };
  std::vector<OpSample> out{make("f64", 3, 1, false, {}),
                            make("f64", 4, 2, true, {{"direction", "bidirectional"}}),
                            make("f64", 3, 1, true, {{"direction", "reverse"}, {"layout", std::int64_t{1}}}),
                            make("f64", 1, 1, false, {}),
                            make("f32", 3, 1, true, {}),
                            make("f16", 2, 1, false, {})};
  if (kind == Kind::gru) out.push_back(make("f64", 3, 1, true, {{"linear_before_reset", std::int64_t{1}}}));
  if (kind == Kind::lstm) out.push_back(make("f64", 2, 1, true, {{"input_forget", std::int64_t{1}}}));
  return out;
}

template <Kind kind>
OpInfo record(std::string_view name, std::string_view summary) {
  OpInfo o{.name = name, .onnx = name, .tier = Tier::composite, .summary = summary};
  o.operands = {{.name = "X", .dtypes = floats},
                {.name = "W", .dtypes = floats},
                {.name = "R", .dtypes = floats},
                {.name = "B", .dtypes = floats, .optional = true},
                {.name = "sequence_lens", .type_var = "L", .dtypes = set_of(DType::i32), .optional = true},
                {.name = "initial_h", .dtypes = floats, .optional = true}};
  o.results = {{.name = "Y", .optional = true}, {.name = "Y_h", .optional = true}};
  o.attrs = {choice_attr("direction", {"forward", "reverse", "bidirectional"}),
             {"activations", AttrKind::strings, false, "one per gate function, for each direction"},
             {"activation_alpha", AttrKind::numbers, false, "for the activations that take one, in order"},
             {"activation_beta", AttrKind::numbers, false, "for the activations that take one, in order"},
             {"clip", AttrKind::number, false, "bound of what enters an activation; none"},
             {"hidden_size", AttrKind::integer, false, "from R if it is not given"},
             int_attr("layout", 0, "1: the batch comes first in X, Y and the states"),
             int_attr("output_sequence", 0, "of opsets before 7; ignored")};
  if (kind == Kind::gru) o.attrs.push_back(int_attr("linear_before_reset", 0, "1: reset after the product with R"));
  if (kind == Kind::lstm) {
    o.operands.push_back({.name = "initial_c", .dtypes = floats, .optional = true});
    o.operands.push_back({.name = "P", .dtypes = floats, .optional = true});
    o.results.push_back({.name = "Y_c", .optional = true});
    o.attrs.push_back(int_attr("input_forget", 0, "1: the forget gate is one minus the input gate"));
  }
  o.infer = infer<kind>;
  o.decompose = decompose<kind>;
  o.samples = samples<kind>;
  return o;
}

}  // namespace

std::vector<OpInfo> recurrent_ops() {
  return {record<Kind::rnn>("RNN", "a layer of simple recurrent cells"),
          record<Kind::gru>("GRU", "a layer of gated recurrent units"),
          record<Kind::lstm>("LSTM", "a layer of long short-term memory cells")};
}

}  // namespace ag
