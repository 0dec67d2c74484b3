"""The training programs of examples/bench against torch: the loss and every parameter after some steps must agree."""
import os
import subprocess

import numpy as np
import torch
import torch.nn.functional as F

STEPS = 3


def logreg(p, x, y):
    return F.binary_cross_entropy_with_logits(x @ p["w"] + p["b"], y)


def mlp(p, x, y):
    for name in ("fc1", "fc2"):
        x = F.gelu(x @ p[name + ".weight"] + p[name + ".bias"])
    return F.cross_entropy(x @ p["fc3.weight"] + p["fc3.bias"], y)


def gpt(p, x, y):
    dense = lambda h, n: h @ p[n + ".weight"] + p[n + ".bias"]
    norm = lambda h, n: F.layer_norm(h, (256,), p[n + ".weight"], p[n + ".bias"])
    h = p["token"][x] + p["place"]
    for i in range(4):
        b = f"block{i}."
        q, k, v = (t.reshape(8, 128, 8, 32).transpose(1, 2) for t in dense(norm(h, b + "norm1"), b + "qkv").split(256, 2))
        scores = q @ k.transpose(2, 3) * 32**-0.5
        scores = scores.masked_fill(torch.tril(torch.ones(128, 128)) == 0, float("-inf"))
        h = h + dense((scores.softmax(-1) @ v).transpose(1, 2).reshape(8, 128, 256), b + "proj")
        h = h + dense(F.gelu(dense(norm(h, b + "norm2"), b + "up")), b + "down")
    return F.cross_entropy(dense(norm(h, "norm"), "head").flatten(0, 1), y.flatten())


def resnet18(p, x, y):
    conv = lambda h, n, pad, stride=1: F.conv2d(h, p[n + ".weight"], stride=stride, padding=pad)
    norm = lambda h, n: F.batch_norm(h, None, None, p[n + ".weight"], p[n + ".bias"], training=True)
    h = F.max_pool2d(F.relu(norm(conv(x, "conv1", 3, 2), "bn1")), 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            b, stride = f"layer{layer}.{block}.", 2 if layer > 1 and block == 0 else 1
            z = F.relu(norm(conv(h, b + "conv1", 1, stride), b + "bn1"))
            z = norm(conv(z, b + "conv2", 1), b + "bn2")
            h = F.relu(z + (norm(conv(h, b + "down", 0, stride), b + "down_bn") if stride == 2 else h))
    return F.cross_entropy(h.mean((2, 3)) @ p["fc.weight"] + p["fc.bias"], y)


CASES = {
    "logreg": (logreg, "sgd,lr=1e-2", lambda p: torch.optim.SGD(p, 1e-2)),
    "logreg adamw": (logreg, "optimizer=adamw", lambda p: torch.optim.AdamW(p)),
    # A large eps: gradients that are nothing but rounding (of the keys' bias) must not become whole steps.
    "mlp": (mlp, "adam,lr=1e-3,eps=1e-3", lambda p: torch.optim.Adam(p, 1e-3, eps=1e-3)),
    "gpt": (gpt, "adamw,lr=1e-3,eps=1e-3", lambda p: torch.optim.AdamW(p, 1e-3, eps=1e-3)),
    "resnet18": (resnet18, "sgd,lr=1e-3,momentum=0.9", lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9)),
    "logreg nesterov": (logreg, "sgd,lr=0.1,momentum=0.9,nesterov=true,weight_decay=0.1",
                        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1)),
    "logreg dampening": (logreg, "sgd,lr=0.1,momentum=0.9,dampening=0.5",
                         lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5)),
    "logreg adam decay": (logreg, "adam,lr=0.1,weight_decay=0.1,beta1=0.8,beta2=0.9,eps=1e-6",
                          lambda p: torch.optim.Adam(p, 0.1, (0.8, 0.9), 1e-6, 0.1)),
}
NAMES = list(CASES)
# One ReLU whose operand rounds to the other side of 0 changes the gradients of all layers before it, by some 1e-3.
KINKED = {"resnet18"}


def state(command, folder, name, options):
    file = f"{folder}/{name}.state.npz"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = f"{root}/examples/bench/{name}"
    done = subprocess.run([command, "run", program + ".json", "--inputs", program + ".npz", "--outputs", file, "-q",
                           *options], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {(done.stderr.splitlines() or ['no message'])[0]}")
    return np.load(file), np.load(program + ".npz")


def check(command, folder, case, far):
    """None, or what differs. `far` compares two arrays."""
    name = case.split()[0]
    loss_of, optimiser, make = CASES[case]
    start, inputs = state(command, folder, name, ["--train", "sgd,lr=0"])
    got, _ = state(command, folder, name, ["--train", optimiser, "--steps", str(STEPS)])
    optional = (".exp_avg", ".exp_avg_sq", ".momentum_buffer", ".running_mean", ".running_var")
    names = [k for k in start.files if k != "loss" and not k.startswith("optimizer.") and not k.endswith(optional)]
    p = {k: torch.tensor(start[k], requires_grad=True) for k in names}
    x, y = (torch.tensor(inputs[k]) for k in ("x", "y"))
    optimizer = make(list(p.values()))
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(p, x, y)
        loss.backward()
        optimizer.step()
    if wrong := far(got["loss"], loss.detach().numpy()):
        return "loss " + wrong
    for k in names:
        # What a step changed, not the parameter: that hardly moves.
        moved, wanted = got[k] - start[k], p[k].detach().numpy() - start[k]
        if name in KINKED:
            if np.linalg.norm(moved - wanted) > 0.1 * np.linalg.norm(wanted):
                return f"{k} moved otherwise"
        elif wrong := far(moved, wanted, 1e-4):
            return f"{k} {wrong}"
    return None
