// tools/plot.py draws the sine with its derivatives, where build/venv has matplotlib (./dev test installs it).
#include <catch2/catch.hpp>

#include "tests/cli/command.hpp"

TEST_CASE("the sine is drawn") {
  const std::string python = "build/venv/bin/python";
  if (sh(python + " -c 'import matplotlib, numpy'").code != 0) {
    WARN("skipped: " << python << " has no matplotlib");
    return;
  }
  TempFolder t;
  REQUIRE(sh("ag-compile run examples/sine.json --outputs " + (t / "sine.npz")).code == 0);
  Ran r = sh(python + " tools/plot.py " + (t / "sine.npz") + " -o " + (t / "sine.png"));
  CAPTURE(r.out, r.err);
  CHECK(r.code == 0);
  CHECK(read_file(t / "sine.png").substr(1, 3) == "PNG");
  CHECK(sh(python + " tools/plot.py nowhere.npz").code == 1);
  CHECK(sh(python + " tools/plot.py examples/digits.npz").code == 1);
}
