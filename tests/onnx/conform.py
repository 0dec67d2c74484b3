"""Runs `ag-compile conform` over the cases of the onnx package; fails when fewer pass than floor.txt records.

conform.py AG_COMPILE FOLDER: the cases are written to FOLDER first (cases.py). Exit 77 (left out) without the package.
AG_BLESS=1 raises the floors to what passes.
"""
import json
import os
import subprocess
import sys

import cases

here = os.path.dirname(os.path.abspath(__file__))


def floors():
    with open(os.path.join(here, "floor.txt")) as text:
        return [line.split() for line in text if line.strip() and not line.startswith("#")]


def main():
    command, folder = sys.argv[1], sys.argv[2]
    sys.argv = [sys.argv[0], folder]
    if cases.main() != 0:
        return 77
    failed, reached = False, []
    for suite, passed_floor, compiled_floor in floors():
        report = os.path.join(folder, suite + ".json")
        if os.path.exists(report):
            os.remove(report)
        run = subprocess.run([command, "conform", os.path.join(folder, suite), "--json", report], capture_output=True, text=True)
        if not os.path.exists(report):
            print(suite, "did not run:", run.stderr[-2000:])
            return 1
        with open(report) as text:
            verdicts = list(json.load(text).values())
        compiled, crashed = verdicts.count("compiled"), verdicts.count("crashed")
        passed = compiled + verdicts.count("host")
        reached.append((suite, passed, compiled))
        print(f"{suite}: {passed} of {len(verdicts)} passed, {compiled} compiled, {crashed} crashed")
        if passed < int(passed_floor) or compiled < int(compiled_floor) or crashed:
            failed = True
            print(f"  the floor is {passed_floor} passed, {compiled_floor} compiled, none crashed:")
            print("".join("  " + line + "\n" for line in run.stderr.splitlines()))
    if os.environ.get("AG_BLESS"):
        with open(os.path.join(here, "floor.txt")) as text:
            head = [line for line in text if line.startswith("#")]
        with open(os.path.join(here, "floor.txt"), "w") as text:
            text.writelines(head)
            for suite, passed, compiled in reached:
                text.write(f"{suite:<17} {passed:<5} {compiled}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
