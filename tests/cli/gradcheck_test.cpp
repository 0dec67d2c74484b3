// gradcheck on networks as PyTorch exports them, and on graphs with control flow and whole numbers among the inputs.
#include <catch2/catch.hpp>

#include "tests/cli/command.hpp"

TEST_CASE("gradcheck passes on a perceptron, a convolutional network and a transformer") {
  const std::pair<const char*, const char*> models[] = {
      {"mlp", " --input x=randn --input t=0,2,1,1"},
      {"cnn", " --input x=randn --input t=0,2,1"},
      {"transformer", " --input 'i=[[3,1,4,1,5],[9,2,6,5,3]]' --input 't=[[1,4,1,5,9],[2,6,5,3,5]]'"}};
  for (auto [name, inputs] : models) {
    Ran r = sh("ag-compile gradcheck tests/cli/models/" + std::string(name) + ".json" + inputs);
    CAPTURE(name, r.out, r.err);
    CHECK(r.code == 0);
    CHECK(contains(r.out, " ok\n"));
    CHECK(contains(r.out, "forward mode"));
    CHECK(!contains(r.out, "WRONG"));
  }
}

TEST_CASE("gradcheck follows recurrent layers, loops and trip counts that are inputs") {
  TempFolder t;
  std::string lstm = t.write("lstm.json", R"({ "ag": 1, "opset": 22,
  "inputs": [ { "name": "x", "type": "f32[4,2,3]" }, { "name": "w", "type": "f32[1,8,3]" },
              { "name": "r", "type": "f32[1,8,2]" }, { "name": "n", "type": "i64[]" } ],
  "nodes": [
    { "op": "LSTM", "in": ["x", "w", "r"], "out": ["all", "h", "c"], "attrs": { "hidden_size": 2 } },
    { "op": "Loop", "in": ["n", null, "h"], "out": "z", "regions": { "body": { "inputs": ["i", "go", "s"],
        "nodes": [ { "op": "Mul", "in": ["s", "c"], "out": "p" }, { "op": "Sin", "in": ["p"], "out": "q" },
                   { "op": "Add", "in": ["q", "h"], "out": "s1" } ],
        "outputs": ["go", "s1"] } } },
    { "op": "ReduceSumSquare", "in": ["z"], "out": "y", "attrs": { "keepdims": 0 } } ],
  "outputs": ["y"],
  "grad": { "of": "y", "wrt": ["x", "w", "r", "c"] } })");
  for (const char* trips : {"0", "1", "5"}) {
    Ran r = sh("ag-compile gradcheck " + lstm + " --input x=randn --input w=randn --input r=randn --input n=" + trips);
    CAPTURE(trips, r.out, r.err);
    CHECK(r.code == 0);
    CHECK(!contains(r.out, "WRONG"));
  }
}
