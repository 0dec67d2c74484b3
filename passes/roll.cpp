// Long epilogues row by row. A product's tile fills many registers, so that a function applied to it (a GELU takes some
// forty statements) becomes a thousand instructions, which LLVM takes 50 ms to schedule and to spill. Where a run of
// statements treats the rows of its tiles alike, the tiles that it takes are laid down in local memory, and a loop
// takes a few rows at a time: as fast, since that costs two moves a register, and a tenth of the code.
#include "passes/roll.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

namespace ag::passes {
namespace {

using loop::BlockId;
using loop::BufferId;
using loop::Op;
using loop::OpClass;
using loop::Scope;
using loop::Stmt;
using loop::StmtId;
using loop::ValueId;
using loop::VType;
using ValueIds = std::vector<ValueId>;

constexpr int min_instructions = 256;  // of a run that is worth a loop: registers times statements
constexpr int side_by_side = 4;  // registers of a value in a trip, so that latencies overlap

class Roller {
 public:
  Roller(loop::Kernel& k, const TargetSpec& target) : k_(k), target_(target) {}

  void run() {
    for (std::size_t b = 0; b < k_.blocks.size(); ++b)
      for (StmtId id : k_.blocks[BlockId(b)].stmts)
        for (ValueId v : k_.stmts[id].operands) users_[v].push_back(id);
    const std::size_t blocks = k_.blocks.size();
    for (std::size_t b = 0; b < blocks; ++b) block(BlockId(b));
  }

 private:
  /// Statements of a block that follow one another: those on tiles of `rows` rows, and those that all rows share.
  struct Run {
    std::vector<StmtId> all, tiles;
    int rows = 0;
  };

  loop::Kernel& k_;
  const TargetSpec& target_;
  std::map<ValueId, std::vector<StmtId>> users_;

  const Stmt& stmt(StmtId id) const { return k_.stmts[id]; }

  /// Registers of one row.
  int registers(const VType& t) const {
    const int lanes = std::max(1, target_.lanes(static_cast<int>(dtype_bytes(t.elem))));
    return (t.lanes + lanes - 1) / lanes;
  }

  /// The tile whose rows a statement works on: its result, or what it stores.
  std::optional<VType> tile(const Stmt& s) const {
    if (s.op == Op::store_tile) return k_.type(s.operands[3]);
    if (s.results.size() == 1) return k_.type(s.results[0]);
    return std::nullopt;
  }

  /// Row r of the result is made of row r of the operands.
  static bool by_rows(const Stmt& s) {
    switch (loop::describe(s.op).cls) {
      case OpClass::unary:
      case OpClass::binary:
      case OpClass::compare:
      case OpClass::ternary: return true;
      default:
        return s.op == Op::constant || s.op == Op::broadcast || s.op == Op::reduce_lanes || s.op == Op::load_tile ||
               s.op == Op::store_tile;
    }
  }

  void block(BlockId id) {
    const std::vector<StmtId> old = k_.blocks[id].stmts;
    std::vector<StmtId> stmts;
    Run run;
    auto end = [&] {
      if (!roll(run, stmts)) stmts.insert(stmts.end(), run.all.begin(), run.all.end());
      run = {};
    };
    for (StmtId s : old) {
      const std::optional<VType> t = tile(stmt(s));
      const bool taken =
          t && (by_rows(stmt(s)) || (t->rows == 1 && (stmt(s).op == Op::lane_iota || stmt(s).op == Op::dim)));
      if (!taken || (t->rows == 1 && stmt(s).op == Op::store_tile)) {
        end();
        stmts.push_back(s);
        continue;
      }
      if (t->rows > 1 && run.rows > 0 && t->rows != run.rows) end();
      run.all.push_back(s);
      if (t->rows == 1) continue;
      run.rows = t->rows;
      run.tiles.push_back(s);
    }
    end();
    k_.blocks[id].stmts = std::move(stmts);
  }

  /// How many rows a trip takes: the fewest that fill enough registers, else the most that fill three. 0: all.
  int rows_of_trip(const Run& run) const {
    int instructions = 0, widest = 1;
    for (StmtId s : run.tiles) {
      const int n = registers(*tile(stmt(s)));
      if (stmt(s).op != Op::constant) instructions += n * run.rows;
      widest = std::max(widest, n);
    }
    if (instructions < min_instructions) return 0;
    int some = 0;
    for (int q = 1; q < run.rows; ++q) {
      if (run.rows % q != 0) continue;
      if (q * widest >= side_by_side) return q;
      if (q * widest == side_by_side - 1) some = q;
    }
    return some;
  }

  /// Nothing that later statements need is made here, and rows may be stored before later ones are read.
  bool separable(const Run& run) const {
    const std::set<StmtId> tiles(run.tiles.begin(), run.tiles.end());
    std::map<BufferId, StmtId> stored;
    for (StmtId id : run.tiles) {
      const Stmt& s = stmt(id);
      for (ValueId v : s.results)
        if (const auto users = users_.find(v); users != users_.end())
          for (StmtId user : users->second)
            if (!tiles.contains(user)) return false;
      if (s.op == Op::store_tile &&
          (!k_.buffers[s.attr.buffer.index].noalias || !stored.emplace(s.attr.buffer, id).second))
        return false;
    }
    for (StmtId id : run.all) {
      const Stmt& s = stmt(id);
      const auto at = s.op == Op::load_tile ? stored.find(s.attr.buffer) : stored.end();
      if (at != stored.end() && !same_rows(s, stmt(at->second))) return false;
    }
    return !stored.empty();
  }

  /// A load and a store of the same rows of memory, none of which overlaps another.
  bool same_rows(const Stmt& load, const Stmt& store) const {
    const VType& t = k_.type(load.results[0]);
    return t == k_.type(store.operands[3]) &&
           std::equal(load.operands.begin(), load.operands.begin() + 3, store.operands.begin()) &&
           constant(load.operands[2]) == 1 && constant(load.operands[1]).value_or(0) >= t.lanes;
  }

  std::optional<std::int64_t> constant(ValueId v) const {
    const StmtId def = k_.values[v].def;
    if (!def || stmt(def).op != Op::constant) return std::nullopt;
    return static_cast<std::int64_t>(stmt(def).attr.imm);
  }

  // -- writing the loop -------------------------------------------------------------------------------------------
  ValueIds emit(std::vector<StmtId>& out, Stmt s, const std::vector<VType>& results) {
    s.results.clear();
    const StmtId id(k_.stmts.size());
    for (const VType& type : results) {
      loop::Value value{type};
      value.def = id;
      value.result = static_cast<std::uint32_t>(s.results.size());
      s.results.push_back(k_.values.push(value));
    }
    ValueIds values = s.results;
    k_.stmts.push(std::move(s));
    out.push_back(id);
    return values;
  }
  ValueId index(std::vector<StmtId>& out, std::int64_t i, std::uint32_t origin) {
    Stmt s{Op::constant};
    s.attr.imm = static_cast<std::uint64_t>(i);
    s.origin = origin;
    return emit(out, std::move(s), {loop::index_type})[0];
  }
  ValueId arith(std::vector<StmtId>& out, Op op, ValueId a, ValueId b, std::uint32_t origin) {
    Stmt s{op};
    s.operands = {a, b};
    s.origin = origin;
    return emit(out, std::move(s), {loop::index_type})[0];
  }

  /// Lays a tile down, row after row.
  BufferId lay_down(std::vector<StmtId>& out, ValueId v, std::uint32_t origin) {
    const VType t = k_.type(v);
    const BufferId id(k_.buffers.size());
    k_.buffers.push_back({.name = "b" + std::to_string(id.index),
                          .dtype = t.elem,
                          .scope = Scope::local,
                          .access = loop::Access::read_write,
                          .elems = Dim(std::int64_t{t.rows} * t.lanes)});
    Stmt s{Op::store_tile};
    s.attr.buffer = id;
    s.operands = {index(out, 0, origin), index(out, t.lanes, origin), index(out, 1, origin), v};
    s.origin = origin;
    emit(out, std::move(s), {});
    return id;
  }

  bool roll(const Run& run, std::vector<StmtId>& out) {
    const int q = run.tiles.empty() ? 0 : rows_of_trip(run);
    if (q == 0 || !separable(run)) return false;
    const std::uint32_t origin = stmt(run.tiles[0]).origin;
    std::set<StmtId> tiles(run.tiles.begin(), run.tiles.end());
    for (StmtId id : run.all)
      if (!tiles.contains(id)) out.push_back(id);
    std::map<ValueId, BufferId> laid;  // what comes in as a tile
    for (StmtId id : run.tiles) {
      const ValueIds operands = stmt(id).operands;
      for (ValueId v : operands)
        if (k_.type(v).rows > 1 && !tiles.contains(k_.values[v].def) && !laid.contains(v))
          laid.emplace(v, lay_down(out, v, origin));
    }
    Stmt loop{Op::for_};
    loop.operands = {index(out, 0, origin), index(out, run.rows, origin), index(out, q, origin)};
    loop.blocks = {body(run, q, laid)};
    loop.origin = origin;
    emit(out, std::move(loop), {});
    return true;
  }

  BlockId body(const Run& run, int q, const std::map<ValueId, BufferId>& laid) {
    const BlockId id = k_.blocks.push({});
    loop::Value counter{loop::index_type};
    counter.block = id;
    const ValueId row = k_.values.push(counter);
    std::vector<StmtId> out;
    std::map<ValueId, ValueId> mapped;
    auto few = [&](VType t) {
      t.rows = static_cast<std::uint16_t>(q);
      return t;
    };
    for (const auto& [v, buffer] : laid) {
      const VType t = k_.type(v);
      const std::uint32_t origin = stmt(run.tiles[0]).origin;
      Stmt s{Op::load_tile};
      s.attr.buffer = buffer;
      s.origin = origin;
      const ValueId lanes = index(out, t.lanes, origin);
      s.operands = {arith(out, Op::mul, row, lanes, origin), lanes, index(out, 1, origin)};
      mapped[v] = emit(out, std::move(s), {few(t)})[0];
    }
    for (StmtId old : run.tiles) {
      Stmt s = stmt(old);
      for (ValueId& v : s.operands)
        if (const auto at = mapped.find(v); at != mapped.end()) v = at->second;
      if (s.op == Op::load_tile || s.op == Op::store_tile)
        s.operands[0] = arith(out, Op::add, s.operands[0], arith(out, Op::mul, row, s.operands[1], s.origin), s.origin);
      const ValueIds results = s.results;
      const ValueIds made =
          emit(out, std::move(s), results.empty() ? std::vector<VType>{} : std::vector{few(k_.type(results[0]))});
      for (std::size_t i = 0; i < made.size(); ++i) mapped[results[i]] = made[i];
    }
    Stmt yield{Op::yield};
    emit(out, std::move(yield), {});
    k_.blocks[id].args = {row};
    k_.blocks[id].stmts = std::move(out);
    return id;
  }
};

Result<loop::Program> run(loop::Program program, PassContext& context) {
  for (loop::Kernel& k : program.kernels) Roller(k, context.target).run();
  return program;
}

}  // namespace

const Pass roll{
    .name = "roll", .summary = "takes long runs of statements on tiles a few rows at a time", .on_program = run};

}  // namespace ag::passes
