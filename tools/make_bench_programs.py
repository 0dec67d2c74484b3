"""make_bench_programs.py [FOLDER]: writes the training programs of the benchmarks, NAME.json and NAME.npz each, into
examples/bench. The same bytes every time; needs numpy."""
import io
import json
import os
import sys
import zipfile

import numpy as np


class Program:
    """A graph as lines of JSON. Values are named; each method appends a node and gives its result's name."""

    def __init__(self, name, doc, inputs):
        self.name, self.doc, self.inputs = name, doc, inputs
        self.parameters, self.nodes, self.key, self.count = [], [], 0, {}

    def normal(self, name, shape, scale):
        self.key += 1
        self._initializer(name, shape, {"random": "normal", "scale": float(f"{scale:.4g}"), "key": self.key}, True)
        return name

    def uniform(self, name, shape, scale):
        self.key += 1
        self._initializer(name, shape, {"random": "uniform", "scale": float(f"{scale:.4g}"), "key": self.key}, True)
        return name

    def fill(self, name, shape, value, trainable=True):
        self._initializer(name, shape, {"fill": value}, trainable)
        return name

    def _initializer(self, name, shape, source, trainable):
        entry = {"name": name, "type": f"f32[{','.join(map(str, shape))}]", **source}
        if trainable:
            entry["trainable"] = True
        self.parameters.append(entry)

    def node(self, op, inputs, out=None, domain=None, **attrs):
        entry = {"op": op, **({"domain": domain} if domain else {}), "in": inputs, "out": out or self.fresh(op)}
        if attrs:
            entry["attrs"] = attrs
        self.nodes.append(entry)
        return entry["out"]

    def fresh(self, op):
        self.count[op] = self.count.get(op, 0) + 1
        return f"{op.lower()}{self.count[op]}"

    def text(self, outputs):
        line = lambda entries: ",\n".join("    " + spaced(e) for e in entries)
        return (f'{{ "ag": 1, "opset": 21, "name": {json.dumps(self.name)},\n  "doc": {json.dumps(self.doc)},\n'
                f'  "inputs": [\n{line(self.inputs)} ],\n  "initializers": [\n{line(self.parameters)} ],\n'
                f'  "nodes": [\n{line(self.nodes)} ],\n  "outputs": {json.dumps(outputs)} }}\n')


def spaced(entry):
    text = json.dumps(entry)
    return "{ " + text[1:-1] + " }"


def linear(p, x, name, wide, narrow):
    """Weights [in, out] and the bias as torch draws them."""
    bound = wide ** -0.5
    return p.node("Gemm", [x, p.uniform(name + ".weight", (wide, narrow), bound),
                           p.uniform(name + ".bias", (narrow,), bound)], name)


def logreg():
    p = Program("logreg", "One layer of 5 x 3 and binary cross entropy with logits.",
                [{"name": "x", "type": "f32[5]"}, {"name": "y", "type": "f32[3]"}])
    z = p.node("MatMul", ["x", p.normal("w", (5, 3), 1)])
    z = p.node("Add", [z, p.normal("b", (3,), 1)], "z")
    p.node("BinaryCrossEntropyWithLogits", [z, "y"], "loss", domain="ag")
    return p, {"x": np.ones(5, np.float32), "y": np.zeros(3, np.float32)}


def mlp(r):
    p = Program("mlp", "784-1024-1024-10 with GELU, batch 64, cross entropy.",
                [{"name": "x", "type": "f32[64,784]"}, {"name": "y", "type": "i64[64]"}])
    h = p.node("Gelu", [linear(p, "x", "fc1", 784, 1024)])
    h = p.node("Gelu", [linear(p, h, "fc2", 1024, 1024)])
    p.node("SoftmaxCrossEntropyLoss", [linear(p, h, "fc3", 1024, 10), "y"], "loss")
    return p, {"x": texture(r, (64,), 784), "y": r.integers(0, 10, 64)}


def gpt(r, vocabulary=1000, width=256, heads=8, layers=4, steps=128, batch=8):
    p = Program("gpt", f"A transformer of {layers} layers, width {width}, {heads} heads, with causal attention written "
                f"out, on {batch} sequences of {steps} tokens, cross entropy of the next token.",
                [{"name": "x", "type": f"i64[{batch},{steps}]"}, {"name": "y", "type": f"i64[{batch},{steps}]"}])
    p.fill("ones", (steps, steps), 1.0, trainable=False)
    lower = p.node("Cast", [p.node("Trilu", ["ones"], "lower", upper=0)], "seen", to="bool")

    def dense(x, name, wide, narrow):
        bound = wide ** -0.5
        xw = p.node("MatMul", [x, p.uniform(name + ".weight", (wide, narrow), bound)])
        return p.node("Add", [xw, p.uniform(name + ".bias", (narrow,), bound)], name)

    def norm(x, name):
        return p.node("LayerNormalization", [x, p.fill(name + ".weight", (width,), 1.0),
                                             p.fill(name + ".bias", (width,), 0.0)], name)

    def by_head(x):
        return p.node("Transpose", [p.node("Reshape", [x, [batch, steps, heads, width // heads]])], perm=[0, 2, 1, 3])

    token = p.node("Gather", [p.normal("token", (vocabulary, width), 1), "x"])
    h = p.node("Add", [token, p.normal("place", (1, steps, width), 0.02)])
    for i in range(layers):
        b = f"block{i}."
        qkv = dense(norm(h, b + "norm1"), b + "qkv", width, 3 * width)
        names = [b + "q", b + "k", b + "v"]
        p.node("Split", [qkv], names, axis=2, num_outputs=3)
        q, k, v = (by_head(x) for x in names)
        k = p.node("Transpose", [k], perm=[0, 1, 3, 2])
        scores = p.node("Mul", [p.node("MatMul", [q, k]), (width // heads) ** -0.5])
        scores = p.node("Where", [lower, scores, "hidden"])
        y = p.node("MatMul", [p.node("Softmax", [scores], axis=-1), v])
        y = p.node("Reshape", [p.node("Transpose", [y], perm=[0, 2, 1, 3]), [batch, steps, width]])
        h = p.node("Add", [h, dense(y, b + "proj", width, width)])
        up = p.node("Gelu", [dense(norm(h, b + "norm2"), b + "up", width, 4 * width)])
        h = p.node("Add", [h, dense(up, b + "down", 4 * width, width)], b + "out")
    p.fill("hidden", (), "-Infinity", trainable=False)
    logits = dense(norm(h, "norm"), "head", width, vocabulary)
    logits = p.node("Reshape", [logits, [batch * steps, vocabulary]], "logits")
    p.node("SoftmaxCrossEntropyLoss", [logits, p.node("Reshape", ["y", [batch * steps]])], "loss")
    return p, {"x": r.integers(0, vocabulary, (batch, steps)), "y": r.integers(0, vocabulary, (batch, steps))}


def resnet18(r, batch=16, size=64):
    p = Program("resnet18", f"ResNet-18 for 10 classes on {batch} images of 3 x {size} x {size}, batch norms in training "
                "mode, cross entropy.",
                [{"name": "x", "type": f"f32[{batch},3,{size},{size}]"}, {"name": "y", "type": f"i64[{batch}]"}])

    def conv(x, name, i, o, k, stride=1):
        w = p.normal(name + ".weight", (o, i, k, k), (2 / (o * k * k)) ** 0.5)
        return p.node("Conv", [x, w], name, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[stride, stride])

    def norm(x, name, c):
        inputs = [x, p.fill(name + ".weight", (c,), 1.0), p.fill(name + ".bias", (c,), 0.0),
                  p.fill(name + ".running_mean", (c,), 0.0, False), p.fill(name + ".running_var", (c,), 1.0, False)]
        p.node("BatchNormalization", inputs, [name, name + ".mean", name + ".var"], training_mode=1)
        return name

    h = p.node("Relu", [norm(conv("x", "conv1", 3, 64, 7, 2), "bn1", 64)])
    h = p.node("MaxPool", [h], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    i = 64
    for layer, (o, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), 1):
        for block in range(2):
            b, s = f"layer{layer}.{block}.", stride if block == 0 else 1
            z = p.node("Relu", [norm(conv(h, b + "conv1", i, o, 3, s), b + "bn1", o)])
            z = norm(conv(z, b + "conv2", o, o, 3), b + "bn2", o)
            if s != 1:
                h = norm(conv(h, b + "down", i, o, 1, s), b + "down_bn", o)
            h = p.node("Relu", [p.node("Add", [z, h])])
            i = o
    h = p.node("Flatten", [p.node("GlobalAveragePool", [h])])
    p.node("SoftmaxCrossEntropyLoss", [linear(p, h, "fc", 512, 10), "y"], "loss")
    return p, {"x": texture(r, (batch, 3, size), size), "y": r.integers(0, 10, batch)}


def texture(r, shape, period):
    """Normal numbers in steps of 1/16; rows repeat those before them, shifted, so that the file is small."""
    base = np.round(r.standard_normal(shape[:-1] + (period,)) * 16) / 16
    rows = np.stack([np.roll(base, 5 * i, axis=-1) for i in range(shape[-1])], axis=-2)
    return rows.astype(np.float32)


def write(folder, program, arrays):
    with open(f"{folder}/{program.name}.json", "w", encoding="utf-8") as f:
        f.write(program.text(["loss"]))
    with zipfile.ZipFile(f"{folder}/{program.name}.npz", "w", zipfile.ZIP_DEFLATED) as z:
        for name, a in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(a))
            z.writestr(zipfile.ZipInfo(name + ".npy"), data.getvalue(), zipfile.ZIP_DEFLATED)


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "examples", "bench")
    os.makedirs(folder, exist_ok=True)
    write(folder, *logreg())
    for i, make in enumerate((mlp, gpt, resnet18), 1):
        write(folder, *make(np.random.default_rng(i)))


if __name__ == "__main__":
    main()
