#!/usr/bin/env python3
"""Draws a function of one variable with its derivative and a numeric derivative beside it.

    ag-compile run examples/sine.json --outputs sine.npz
    python3 tools/plot.py sine.npz -o sine.png

The archive holds arrays of equal length: the variable (`x`), the function (`y`) and the derivative (`x_grad`).
Needs numpy and matplotlib.
"""

import argparse
import sys


def difference_quotient(x, y):
    """dy/dx by central differences, one-sided at both ends."""
    import numpy as np

    return np.gradient(y.astype(np.float64), x.astype(np.float64))


def use_pi_ticks(axes, low, high):
    """Ticks at multiples of pi/2, named as such."""
    import math

    names = {0: "0", 1: "π/2", -1: "−π/2", 2: "π", -2: "−π"}
    quarter = math.pi / 2
    ticks = range(math.ceil(low / quarter - 1e-3), math.floor(high / quarter + 1e-3) + 1)

    def name(i):
        if i in names:
            return names[i]
        sign = "−" if i < 0 else ""
        return f"{sign}{abs(i) // 2}π" if i % 2 == 0 else f"{sign}{abs(i)}π/2"

    axes.set_xticks([i * quarter for i in ticks], [name(i) for i in ticks])


def draw(arrays, names, path):
    """Writes the picture; returns the largest distance between the two derivatives."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    x, y, dy = (arrays[n] for n in names)
    numeric = difference_quotient(x, y)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(x, y, label=names[1])
    axes.plot(x, dy, label=names[2])
    axes.plot(x, numeric, ".", markersize=4, label="numeric derivative")
    axes.axhline(0, color="lightgrey", linewidth=0.8, zorder=0)
    axes.set_xlabel(names[0])
    if x.min() < 0 < x.max() and x.max() - x.min() > 3:
        use_pi_ticks(axes, float(x.min()), float(x.max()))
    axes.legend()
    figure.savefig(path, dpi=150)
    return float(np.max(np.abs(numeric - dy)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help=".npz with the arrays")
    parser.add_argument("-o", "--output", default="plot.png", help="picture to write")
    parser.add_argument("--names", default="x,y,x_grad", help="keys of variable, function, derivative")
    args = parser.parse_args()
    try:
        import matplotlib  # noqa: F401
        import numpy as np
    except ImportError as error:
        print(f"plot.py: {error.name} is not installed: python3 -m pip install numpy matplotlib", file=sys.stderr)
        return 2
    names = args.names.split(",")
    try:
        with np.load(args.archive) as archive:
            arrays = {n: archive[n] for n in names}
    except (OSError, KeyError, ValueError) as error:
        print(f"plot.py: {args.archive}: {error}", file=sys.stderr)
        return 1
    if len(names) != 3 or len({a.shape for a in arrays.values()}) != 1 or arrays[names[0]].ndim != 1:
        print(f"plot.py: {args.archive}: three arrays of one axis and equal length are wanted", file=sys.stderr)
        return 1
    worst = draw(arrays, names, args.output)
    print(f"{args.output}: {names[1]}, {names[2]} and the numeric derivative, which differ by at most {worst:.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
