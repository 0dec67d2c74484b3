"""What is measured: networks for inference, and whole training steps of the same size and structure for each peer."""
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "peers"))


def networks():
    """Name -> function that builds (torch module, inputs)."""
    import torch
    import torch.nn as nn

    import models

    class Chain(nn.Module):
        def forward(self, x, gain, bias):
            y = nn.functional.layer_norm(nn.functional.gelu(x) + x, (x.shape[-1],), gain, bias)
            return torch.tanh(y) * torch.sigmoid(x)

    class Product(nn.Module):
        def forward(self, a, b):
            return a @ b

    wide = lambda *shape: torch.randn(*shape)
    chosen = dict(models.FORWARD)
    chosen["mlp_b1"] = lambda: (models.mlp(784, 1024, 1024, 10), (wide(1, 784),))
    chosen["mlp_b64"] = lambda: (models.mlp(784, 1024, 1024, 10), (wide(64, 784),))
    chosen["softmax"] = lambda: (nn.Softmax(-1), (wide(4096, 1024),))
    chosen["chain"] = lambda: (Chain(), (wide(4096, 1024), wide(1024), wide(1024)))
    chosen["gemm1024"] = lambda: (Product(), (wide(1024, 1024), wide(1024, 1024)))
    return chosen


def torch_step(name, compiled, threads):
    """A function that does one training step and returns the loss."""
    import torch
    import torch.nn as nn
    import torchvision.models as tv

    import models

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    loss_of = nn.functional.cross_entropy
    if name == "mlp":
        model = models.mlp(784, 1024, 1024, 10)
        x, y = torch.randn(64, 784), torch.randint(0, 10, (64,))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    elif name == "gpt":
        former = models.Former(1000, 256, 8, 4, 128, True)
        model = lambda tokens: former(tokens).flatten(0, 1)
        x, y = torch.randint(0, 1000, (8, 128)), torch.randint(0, 1000, (8 * 128,))
        optimizer = torch.optim.AdamW(former.parameters(), 1e-3)
    elif name == "resnet18":
        model = tv.resnet18(num_classes=10)
        x, y = torch.randn(16, 3, 64, 64), torch.randint(0, 10, (16,))
        optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
    elif name == "logreg":
        w, b = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(3))
        model, x, y = (lambda x: x @ w + b), torch.ones(5), torch.zeros(3)
        loss_of = nn.functional.binary_cross_entropy_with_logits
        optimizer = torch.optim.SGD([w, b], 1e-2)
    else:
        raise KeyError(name)
    value = lambda x, y: loss_of(model(x), y)
    update = optimizer.step
    if compiled:
        value, update = torch.compile(value), torch.compile(lambda: optimizer.step())

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = value(x, y)
        loss.backward()
        update()
        return loss.item()

    return step


def jax_step(name):
    """The same for JAX: one jitted function of parameters and optimiser state, both donated."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    rng = np.random.default_rng(0)
    normal = lambda *shape, scale=0.02: jnp.asarray(rng.normal(size=shape).astype(np.float32) * scale)
    labels = lambda n, *shape: jnp.asarray(rng.integers(0, n, shape))
    dense = lambda i, o: {"w": normal(i, o), "b": normal(o)}
    affine = lambda p, x: x @ p["w"] + p["b"]
    norm = lambda n: {"w": jnp.ones(n), "b": jnp.zeros(n)}

    def cross_entropy(logits, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

    def normalised(x, p, axes):
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return (x - mean) * lax.rsqrt(var + 1e-5) * p["w"] + p["b"]

    def mlp():
        params, x, y = [dense(784, 1024), dense(1024, 1024), dense(1024, 10)], normal(64, 784, scale=1), labels(10, 64)

        def loss(params, x, y):
            for p in params[:-1]:
                x = jax.nn.gelu(affine(p, x), approximate=False)
            return cross_entropy(affine(params[-1], x), y)

        return params, x, y, loss, "adam"

    def gpt():
        vocabulary, width, heads, layers, steps, batch = 1000, 256, 8, 4, 128, 8
        block = lambda: {"n1": norm(width), "n2": norm(width), "qkv": dense(width, 3 * width),
                         "proj": dense(width, width), "up": dense(width, 4 * width), "down": dense(4 * width, width)}
        params = {"token": normal(vocabulary, width, scale=1), "place": normal(steps, width), "norm": norm(width),
                  "head": dense(width, vocabulary), "blocks": [block() for _ in range(layers)]}
        mask = jnp.tril(jnp.ones((steps, steps), bool))

        def attention(p, x):
            split = lambda t: t.reshape(batch, steps, heads, width // heads).transpose(0, 2, 1, 3)
            q, k, v = map(split, jnp.split(affine(p["qkv"], x), 3, -1))
            scores = jnp.where(mask, q @ k.swapaxes(-1, -2) * (width // heads) ** -0.5, -jnp.inf)
            mixed = jax.nn.softmax(scores) @ v
            return affine(p["proj"], mixed.transpose(0, 2, 1, 3).reshape(batch, steps, width))

        def loss(params, x, y):
            h = params["token"][x] + params["place"]
            for p in params["blocks"]:
                h = h + attention(p, normalised(h, p["n1"], -1))
                h = h + affine(p["down"], jax.nn.gelu(affine(p["up"], normalised(h, p["n2"], -1)), approximate=False))
            return cross_entropy(affine(params["head"], normalised(h, params["norm"], -1)).reshape(-1, vocabulary), y)

        return params, labels(vocabulary, batch, steps), labels(vocabulary, batch * steps), loss, "adam"

    def resnet18():
        conv = lambda x, w, s: lax.conv_general_dilated(x, w, (s, s), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        params = {"stem": normal(7, 7, 3, 64), "norm": norm(64), "head": dense(512, 10), "blocks": []}
        strides, before = [], 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            for s in (stride, 1):
                side = {"w": normal(1, 1, before, width), "n": norm(width)} if before != width else None
                params["blocks"].append({"a": normal(3, 3, before, width), "an": norm(width),
                                         "b": normal(3, 3, width, width), "bn": norm(width), "side": side})
                strides.append(s)
                before = width
        batch_norm = lambda x, p: normalised(x, p, (0, 1, 2))

        def loss(params, x, y):
            h = jax.nn.relu(batch_norm(conv(x, params["stem"], 2), params["norm"]))
            h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
            for p, s in zip(params["blocks"], strides):
                z = jax.nn.relu(batch_norm(conv(h, p["a"], s), p["an"]))
                z = batch_norm(conv(z, p["b"], 1), p["bn"])
                h = jax.nn.relu(z + (batch_norm(conv(h, p["side"]["w"], s), p["side"]["n"]) if p["side"] else h))
            return cross_entropy(affine(params["head"], h.mean((1, 2))), y)

        return params, normal(16, 64, 64, 3, scale=1), labels(10, 16), loss, "momentum"

    def logreg():
        def loss(params, x, y):
            z = affine(params, x)
            return jnp.mean(jnp.logaddexp(0, z) - z * y)

        return dense(5, 3), jnp.ones(5), jnp.zeros(3), loss, "sgd"

    params, x, y, loss, kind = {"mlp": mlp, "gpt": gpt, "resnet18": resnet18, "logreg": logreg}[name]()
    tree = jax.tree.map

    def step(params, m, v, t, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        if kind == "adam":
            m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
            v = tree(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
            t = t + 1
            move = lambda p, m, v: p - 1e-3 * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
            return tree(move, params, m, v), m, v, t, value
        if kind == "momentum":
            m = tree(lambda m, g: 0.9 * m + g, m, grads)
            return tree(lambda p, m: p - 1e-2 * m, params, m), m, v, t, value
        return tree(lambda p, g: p - 1e-2 * g, params, grads), m, v, t, value

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    state = [params, tree(jnp.zeros_like, params), tree(jnp.zeros_like, params), jnp.zeros(())]

    def run():
        *state[:], value = compiled(*state, x, y)
        return float(value)

    return run


# The optimiser of each training task, as `ag-compile bench --train` spells it.
TRAINING = {"logreg": "optimizer=sgd,lr=1e-2", "mlp": "optimizer=adam,lr=1e-3", "gpt": "optimizer=adamw,lr=1e-3",
            "resnet18": "optimizer=sgd,momentum=0.9,lr=1e-2"}
