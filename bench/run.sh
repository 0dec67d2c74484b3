#!/bin/sh
# Benchmarks beside peers, in one run. Installs OpenBLAS from Debian's packages if it is missing.
set -e
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
if ! [ -e /usr/include/x86_64-linux-gnu/cblas.h ]; then
  echo "bench: installing libopenblas-dev, the library to compare with"
  sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends libopenblas-dev > /dev/null
fi
cmake --preset release > /dev/null
cmake --build --preset release --target ag-bench-gemm ag-bench-rows ag-bench-update ag-bench-codegen ag-bench-exec
status=0
# Each of these ends with an error if something falls below its share of a reference measured in the same run.
build/release/ag-bench-gemm || status=1
build/release/ag-bench-rows || status=1
build/release/ag-bench-update || status=1
bench/instructions.sh || [ $? = 77 ] || status=1
# Models and training steps beside the peers, where their wheels are installed (./dev bench --peers installs them).
if [ -x build/peers/bin/python ]; then
  build/peers/bin/python bench/peers.py build/release/ag-compile build/bench-models "$@"
else
  echo "bench: no peers in build/peers: ./dev bench --peers installs them (gigabytes)"
fi
exit $status
