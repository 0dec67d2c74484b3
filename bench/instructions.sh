#!/bin/sh
# Counts the instructions that compiling takes, on one thread for the AVX2 target, and compares them with those recorded
# in bench/instructions.txt: a pass that has become quadratic shows here on a busy machine too. LLVM's part counts as
# well, so counts are compared only with those of the same LLVM. Whatever was recorded, time must not grow faster than
# the program.
#   bench/instructions.sh [--record]
# Exit status: 0 as recorded or fewer, 1 a tenth more or not linear, 77 left out (no valgrind).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
command=${AG_COMMAND:-build/release/ag-compile}
recorded=bench/instructions.txt
command -v valgrind > /dev/null || { echo "instructions: no valgrind: left out"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A long unrolled chain beside the programs of the tree: N times y = tanh(y w) + y, with gradients.
unrolled() {
  printf '{"ag":1,"inputs":[{"name":"y0","type":"f32[8,16]"},{"name":"w","type":"f32[16,16]"}],"nodes":['
  i=0
  while [ $i -lt "$1" ]; do
    next=$((i + 1))
    printf '{"op":"MatMul","in":["y%d","w"],"out":"s%d"},{"op":"Tanh","in":["s%d"],"out":"t%d"},' $i $i $i $i
    printf '{"op":"Add","in":["t%d","y%d"],"out":"y%d"},' $i $i $next
    i=$next
  done
  printf '{"op":"ReduceSum","in":["y%d"],"out":"l","attrs":{"keepdims":0}}],"outputs":["l"],"grad":{"of":"l","wrt":["w"]}}' $i
}
unrolled 100 > "$work/unrolled100.json"
unrolled 300 > "$work/unrolled300.json"

# count MODEL [OPTION...]: millions of instructions in Engine::compile and what it calls.
count() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null '--toggle-collect=ag::runtime::Engine::compile*' \
    "$command" compile "$@" --threads 1 --no-cache --target cpu:x86-64-v3 2>&1 > /dev/null |
    awk '/Collected/ { printf "%d", $NF / 1e6 }'
}

version=$("$command" --version)
failed=0
{
  echo "# Millions of instructions to compile, one thread, AVX2: $version"
  for model in two_dot while_if digits bench/gpt; do
    printf '%s %s\n' "$model" "$(count "examples/$model.json")"
  done
  for model in unrolled100 unrolled300; do printf '%s %s\n' "$model" "$(count "$work/$model.json")"; done
} > "$work/now.txt"
if [ "${1:-}" = --record ]; then
  cp "$work/now.txt" "$recorded"
  cat "$recorded"
  exit 0
fi
# Three times the program may take three times the instructions, and a bit for what is sorted.
of() { awk -v n="$1" '$1 == n { print $2 }' "$work/now.txt"; }
if [ "$(($(of unrolled300) * 10))" -gt "$(($(of unrolled100) * 36))" ]; then
  echo "instructions: compiling is not linear: $(of unrolled100) million for 100 repetitions, $(of unrolled300) for 300"
  failed=1
fi
if [ "$(head -1 "$recorded" 2> /dev/null)" != "$(head -1 "$work/now.txt")" ]; then
  echo "instructions: recorded for another version; not compared (bench/instructions.sh --record)"
  cat "$work/now.txt"
  exit $failed
fi
while read -r name now; do
  [ "$name" != "#" ] || continue
  before=$(awk -v n="$name" '$1 == n { print $2 }' "$recorded")
  note=""
  if [ -n "$before" ] && [ "$((now * 10))" -gt "$((before * 11))" ]; then
    note="  more than a tenth above"
    failed=1
  fi
  echo "$name: $now million instructions, recorded ${before:-nothing}$note"
done < "$work/now.txt"
exit $failed
