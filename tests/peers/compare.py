"""compare.py AG_COMPILE FOLDER [NAME...]: exports networks, runs them with ag-compile, compares with torch.

Outputs must agree within 1e-3 of the largest output; gradients within 1e-3 of the largest of their array.
The gradient graph is also written as .onnx and run by ONNX Runtime. The last line counts."""
import os
import subprocess
import sys
import warnings

import numpy as np
import torch

import models
import training

warnings.filterwarnings("ignore")
TOLERANCE = 1e-3


def export(name, make, folder, training):
    """Writes NAME.onnx and NAME.npz (in0, in1, ...) unless they are there; returns the network and its inputs."""
    torch.manual_seed(0)
    network, inputs = make()
    with torch.no_grad():  # the exporter merges equal parameters, and fresh ones of norms are
        for p in network.parameters():
            p += 0.02 * torch.randn_like(p)
    network.train(training)
    path = f"{folder}/{name}.onnx"
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    keep = name in models.GRADIENTS
    state = {k: v.clone() for k, v in network.state_dict().items()}
    if not os.path.exists(path):
        options = dict(opset_version=17, training=mode, do_constant_folding=not keep, input_names=["in0"],
                       output_names=["out"])
        torch.onnx.export(network, inputs, path + ".part", dynamo=False, **options)
        os.rename(path + ".part", path)
    network.load_state_dict(state)
    np.savez(f"{folder}/{name}.npz", **{f"in{i}": t.numpy() for i, t in enumerate(inputs)})
    return network, inputs


def run(command, folder, name, *options):
    done = subprocess.run([command, "run", f"{folder}/{name}.onnx", "--inputs", f"{folder}/{name}.npz", "--outputs",
                           f"{folder}/{name}.out.npz", *options], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise RuntimeError(f"exit {done.returncode}: {lines[0]}")
    return np.load(f"{folder}/{name}.out.npz")


def far(got, wanted, least=1e-6):
    """Largest difference in units of the largest wanted value (or of `least`, where all are nearly 0); a reason if
    they cannot be compared."""
    if got.shape != wanted.shape:
        return f"shape {got.shape} instead of {wanted.shape}"
    scale = np.abs(wanted).max() if wanted.size else 0
    worst = np.abs(got - wanted).max() / max(scale, least) if wanted.size else 0
    return None if worst <= TOLERANCE else f"differs by {worst:.2e} of its largest value"


def forward(command, folder, name, make):
    network, inputs = export(name, make, folder, False)
    with torch.no_grad():
        wanted = network(*inputs)
    wanted = wanted["out"] if isinstance(wanted, dict) else wanted
    got = run(command, folder, name)
    return far(got[got.files[0]], wanted.numpy())


def gradients(command, folder, name, make, training):
    network, inputs = export(name, make, folder, training)
    result = network(*inputs)
    result.backward(torch.ones_like(result))
    wanted = {k: p.grad.numpy() for k, p in network.named_parameters()}
    import onnx
    held = {i.name for i in onnx.load(f"{folder}/{name}.onnx").graph.initializer}
    names = [k for k in wanted if k in held]
    if not names:
        return "no parameter kept its name in the export"
    request = ["--grad", "out:" + ",".join(names), "--grad-seed", "out=1"]
    got = run(command, folder, name, *request)
    least = 1e-2 * max(np.abs(g).max() for g in wanted.values())  # a bias before a batch norm has no gradient but noise
    for key in names:
        if key + "_grad" not in got:
            return f"no {key}_grad"
        if reason := far(got[key + "_grad"], wanted[key], least):
            return f"{key}: {reason}"
    return through_onnxruntime(command, folder, name, request, got, least)


def through_onnxruntime(command, folder, name, request, wanted, least):
    import onnxruntime
    path = f"{folder}/{name}.both.onnx"
    done = subprocess.run([command, "convert", f"{folder}/{name}.onnx", *request, "-o", path], capture_output=True,
                          text=True)
    if done.returncode:
        return "convert: " + (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = dict(np.load(f"{folder}/{name}.npz"))
    for output, got in zip(session.get_outputs(), session.run(None, feed)):
        if output.name in wanted.files and (reason := far(got, wanted[output.name], least)):
            return f"ONNX Runtime, {output.name}: {reason}"
    return None


def main():
    command, folder, chosen = sys.argv[1], sys.argv[2], sys.argv[3:]
    os.makedirs(folder, exist_ok=True)
    torch.set_num_threads(2)
    work = [(n, lambda n=n, m=m: forward(command, folder, n, m)) for n, m in models.FORWARD.items()]
    work += [(n, lambda n=n, m=m, t=t: gradients(command, folder, n, m, t)) for n, (m, t) in models.GRADIENTS.items()]
    work += [("train " + n, lambda n=n: training.check(command, folder, n, far)) for n in training.NAMES]
    counts = {True: 0, False: 0}
    for name, task in work:
        if chosen and name not in chosen:
            continue
        try:
            reason = task()
        except Exception as e:  # a network that cannot be exported or run is a failure with a reason, not the end
            reason = str(e)
        counts[reason is None] += 1
        print(f"{name:24} {reason or 'ok'}", flush=True)
    print(f"{counts[True]} passed, {counts[False]} failed")
    sys.exit(3 if counts[False] else 0)


main()
