"""peers.py AG_COMPILE FOLDER [--models a,b] [--train a,b] [--peers ort,openvino,...] [--rounds N]

Times ag and, where their wheels are installed, its peers on the same models in the same run: each in a process of its
own, taking turns for fractions of a second, two threads each, f32; minima of all turns. Prints milliseconds, and how
many times as fast as the fastest peer ag is. FOLDER keeps the models."""
import argparse
import contextlib
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

import tasks

warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = ["mlp_b1", "mlp_b64", "resnet18", "resnet50", "mobilenet_v2", "bert_base_s128", "gpt_d256"]
KERNELS = ["softmax", "chain", "gemm1024"]
INFERENCE = {"ort": "onnxruntime", "openvino": "openvino", "eager": "torch", "compile": "torch"}
STEPS = {"eager": "torch", "compile": "torch", "jax": "jax"}


def export(name, folder):
    """Writes NAME.onnx, and NAME.npz with its inputs and torch's output."""
    import torch
    torch.backends.mha.set_fastpath_enabled(False)  # its operator cannot be exported
    torch.manual_seed(0)
    network, inputs = tasks.networks()[name]()
    network.eval()
    with torch.no_grad():
        torch.onnx.export(network, inputs, f"{folder}/{name}.onnx", dynamo=False, opset_version=17)
        out = network(*inputs)
    np.savez(f"{folder}/{name}.npz", out=out.numpy(), **{f"in{i}": t.numpy() for i, t in enumerate(inputs)})


def inference(peer, name, folder, threads):
    """A function that runs the model once and returns its output."""
    path, data = f"{folder}/{name}.onnx", np.load(f"{folder}/{name}.npz")
    inputs = [data[f"in{i}"] for i in range(len(data.files) - 1)]
    if peer == "ort":
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {i.name: x for i, x in zip(session.get_inputs(), inputs)}
        return lambda: session.run(None, feed)[0]
    if peer == "openvino":
        import openvino
        core = openvino.Core()
        model = core.compile_model(core.read_model(path), "CPU", {
            "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
        request = model.create_infer_request()
        for i, x in enumerate(inputs):
            request.set_input_tensor(i, openvino.Tensor(x))

        def run():
            request.infer()
            return request.get_output_tensor(0).data
        return run
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network, _ = tasks.networks()[name]()
    network.eval()
    inputs = [torch.from_numpy(x) for x in inputs]
    if peer == "compile":
        import torch._inductor.config as config
        config.cpp.threads, config.freezing = threads, True
        network = torch.compile(network)

    def run():
        with torch.no_grad():
            return network(*inputs).numpy()
    return run


def worker(kind, peer, name, folder, threads):
    """Builds, says how long that took, then runs as long as each line of standard input says, answering with minima."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        if kind == "train":
            once = tasks.jax_step(name) if peer == "jax" else tasks.torch_step(name, peer == "compile", threads)
        else:
            once = inference(peer, name, folder, threads)
        result = once()
    said = {"build_s": time.perf_counter() - start}
    if kind == "infer":
        want = np.load(f"{folder}/{name}.npz")["out"]
        said["error"] = float(np.abs(np.asarray(result) - want).max() / max(np.abs(want).max(), 1e-6))
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        best, runs, end = math.inf, 0, time.perf_counter() + float(line)
        while runs < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            once()
            best, runs = min(best, time.perf_counter() - start), runs + 1
        rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps({"min_ms": best * 1e3, "rss_mib": rss_mib}), flush=True)


class Peer:
    def __init__(self, args, kind, peer, name):
        self.best, self.build_s, self.failed, self.rss_mib = math.inf, 0.0, None, 0
        command = [sys.executable, __file__, args.ag, args.folder, "--threads", str(args.threads), "--worker", kind, peer,
                   name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        said = self.answer()
        if said:
            self.build_s = said["build_s"]
            if said.get("error", 0) > 1e-3:
                self.failed = f"wrong by {said['error']:.1e}"

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.failed = "does not run"
            return None
        return json.loads(line)

    def turn(self, seconds):
        if self.failed:
            return
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        said = self.answer()
        if said:
            self.best, self.rss_mib = min(self.best, said["min_ms"]), said["rss_mib"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Ag:
    def __init__(self, args, kind, name):
        self.best, self.failed, self.said, self.rss_mib = math.inf, None, {}, 0
        where = os.path.join(HERE, "..", "examples", "bench") if kind == "train" else args.folder
        model = f"{where}/{name}.json" if kind == "train" else f"{where}/{name}.onnx"
        self.command = [args.ag, "bench", model, "--inputs", f"{where}/{name}.npz", "--threads", str(args.threads),
                        "--json", "-", "--no-cache", "--warmup", "0.05"]
        if kind == "train":
            self.command += ["--train", tasks.TRAINING[name]]

    def turn(self, seconds):
        if self.failed:
            return
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen([*self.command, "--time", str(seconds)], stdout=subprocess.PIPE, stderr=errors)
            text = process.stdout.read()
            _, process.returncode, usage = os.wait4(process.pid, 0)
            if process.returncode:
                errors.seek(0)
                self.failed = (errors.read().decode().strip().splitlines() or ["failed"])[0]
                return
        said = json.loads(text)
        self.rss_mib = usage.ru_maxrss >> 10
        if said["min_ms"] < self.best:
            self.best, self.said = said["min_ms"], {**said, "compile_ms": self.said.get("compile_ms", math.inf)}
        self.said["compile_ms"] = min(self.said["compile_ms"], said["compile_ms"])

    def close(self):
        pass


def measure(args, kind, name, peers):
    runners = {"ag": Ag(args, kind, name), **{p: Peer(args, kind, p, name) for p in peers}}
    for _ in range(args.rounds):
        for runner in runners.values():
            runner.turn(args.seconds)
    for runner in runners.values():
        runner.close()
    return runners


def table(args, kind, names, available):
    peers = [p for p in args.peers if p in available and importlib.util.find_spec(available[p])]
    print(f"\n{'ms, minimum':16}" + "".join(f"{p:>10}" for p in ["ag", *peers]) + f"{'ag is':>9}  compile ms"
          f"   build of {' / '.join(peers)}, s   resident of ag / {' / '.join(peers)}, MiB", flush=True)
    ratios = []
    for name in names:
        if kind == "infer" and not all(os.path.exists(f"{args.folder}/{name}.{e}") for e in ("onnx", "npz")):
            # In a process of its own: what the driver occupies is counted as its children's.
            subprocess.run([sys.executable, __file__, args.ag, args.folder, "--worker", "export", "-", name], check=True)
        runners = measure(args, kind, name, peers)
        ag, others = runners["ag"], [runners[p].best for p in peers]
        ratio = min(others, default=math.nan) / ag.best
        ratios.append(ratio)
        cells = "".join(f"{r.best:10.3f}" if math.isfinite(r.best) else f"{'-':>10}" for r in runners.values())
        builds = " / ".join(f"{runners[p].build_s:.1f}" for p in peers)
        resident = " / ".join(str(r.rss_mib) for r in runners.values())
        print(f"{name:16}{cells}{ratio:8.2f}x{ag.said.get('compile_ms', math.nan):11.0f}   {builds}   {resident}", flush=True)
        for who, runner in runners.items():
            if runner.failed:
                print(f"  {who}: {runner.failed}")
    good = [r for r in ratios if r > 0 and math.isfinite(r)]
    if good:
        print(f"geometric mean of {len(good)}: {math.exp(sum(map(math.log, good)) / len(good)):.2f}x", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ag")
    parser.add_argument("folder")
    words = lambda text: [w for w in text.split(",") if w]
    parser.add_argument("--models", type=words, default=MODELS + KERNELS)
    parser.add_argument("--train", type=words, default=["logreg", "mlp", "gpt", "resnet18"])
    parser.add_argument("--peers", type=words, default=["ort", "openvino", "eager", "jax"],
                        help="also: compile (torch.compile, whose builds take minutes)")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.4, help="length of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        if args.worker[0] == "export":
            return export(args.worker[2], args.folder)
        return worker(*args.worker, args.folder, args.threads)
    os.makedirs(args.folder, exist_ok=True)
    if args.models:
        table(args, "infer", args.models, INFERENCE)
    if args.train:
        table(args, "train", args.train, STEPS)


if __name__ == "__main__":
    main()
