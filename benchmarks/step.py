"""A training step and a forward pass: ours against the same network in PyTorch, alternating.

    pip install -e '.[benchmarks]'
    python benchmarks/step.py [--what=train,eval] [--dtypes=float32,bfloat16] [--rounds=7]
    python benchmarks/step.py --batch_sizes=128,256,512     # on a GPU: each at its best batch

Plain v1 at 224 px: local response normalisation, true 5x5, biases, both heads, dropout. PyTorch's
is `googlenet_torch.py`, channels_last, eager and torch.compile; bfloat16 is its autocast. Both get
the same weights, uint8 pixels and labels; a training step is normalisation, loss with .3 of each
head's, gradients, SGD with momentum and weight decay. Ours is the step that `train` runs, with its
metrics. First both compute one step without dropout, and logits, losses and gradients are compared.

Each side is a process that holds one compiled program and steps when told; they take turns, one at
a time, with all cores. A ratio is the median over the rounds of the two times of one round. On a
machine that does other work meanwhile `--cores=1` and the ratio of processor times say most.
"""

import argparse
import ctypes
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zlib
from typing import Any

import numpy as np

SIDES = ("ours", "eager", "compile")
RATE, MOMENTUM, DECAY = 1e-6, 0.9, 2e-4  # the rate of steps that go nowhere, not astray
TARGETS = {  # (platform, what, dtype, against): (floor, aim), of images/s
    ("cpu", "train", "float32", "eager"): (0.9, 1.2),
    ("cpu", "train", "float32", "compile"): (0.8, 1.1),
    ("cpu", "eval", "float32", "compile"): (0.8, 1.1),
    ("gpu", "train", "bfloat16", "compile"): (1.1, 1.5),
    ("gpu", "eval", "bfloat16", "compile"): (1.0, 1.3),
}
MEMORY_TARGET = (1.0, 0.7)  # of eager's peak, in training
COMPILE_TARGETS = ((12, 8), (2, 1))  # seconds: cold, with the persistent cache


def draw_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """By path, a function of path and shape: kernels as He et al. draw them, small biases.

    The classifiers' are a hundredth, for a loss that is not far beyond chance's.
    """
    weights = {}
    for path, shape in shapes.items():
        rng = np.random.RandomState(zlib.crc32(path.encode()))
        std = 0.1 if len(shape) == 1 else (2 / np.prod(shape[:-1])) ** 0.5
        std /= 100 if "classifier" in path else 1
        weights[path] = rng.normal(0, std, shape).astype(np.float32)
    return weights


def draw_batch(batch_size: int, px: int) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [b, px, px, 3], labels int [b])."""
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (batch_size, px, px, 3)).astype(np.uint8)
    return images, rng.randint(0, 1000, batch_size)


# The processes of the two sides.


class Ours:
    """The programs that `launch.py train` and `eval` run."""

    def __init__(
        self,
        what: str,
        dtype: str,
        batch_size: int,
        px: int,
        *,
        dropout: bool = True,
        mesh: Any = None,
    ):
        import jax
        import optax
        from flax import traverse_util

        from experiments import base
        from inception import inference, optim, parallel, step, train
        from inception.model import GoogLeNet

        self.jax = jax
        config = base.get_config()
        config.model.dtype = dtype
        config.data.colors = dict.fromkeys(config.data.colors, 0.0)
        config.optim.polyak_decay = 0.0
        if not dropout:
            config.model.dropout = config.model.head_dropout = 0.0
        self.model = GoogLeNet(**config.model)
        mesh = mesh or parallel.make_mesh()
        dummy = jax.ShapeDtypeStruct((1, px, px, 3), np.float32)
        key = jax.random.key(0)
        keys = {"params": key, "dropout": key}
        init = lambda: self.model.init(keys, np.zeros(dummy.shape, np.float32), True)  # noqa: E731
        shapes = traverse_util.flatten_dict(jax.eval_shape(init)["params"], sep="/")
        self.weights = draw_weights({path: leaf.shape for path, leaf in shapes.items()})
        params = parallel.replicate(traverse_util.unflatten_dict(self.weights, sep="/"), mesh)
        images, labels = draw_batch(batch_size, px)
        batch = {"image": images, "label": labels.astype(np.int32)}
        self.batch = parallel.to_global(batch, mesh)
        if what == "train":
            tx = optim.sgd(optax.constant_schedule(RATE), momentum=MOMENTUM, weight_decay=DECAY)
            state = step.first_state({"params": params}, tx, polyak_decay=0.0)
            self.state = parallel.replicate(state, mesh)
            self.function = train.step_function(config, tx, mesh)
        else:
            self.state = {"params": params}
            forward = lambda variables, batch: inference.eval_step(  # noqa: E731
                variables, batch, model=self.model, normalization=config.data.normalization
            )
            self.function = parallel.OverBatch(forward, mesh, donate=False)
        self.what = what
        self.device = jax.devices()[0].device_kind
        self.platform = jax.devices()[0].platform

    def steps(self, count: int) -> None:
        for _ in range(count):
            out = self.function(self.state, self.batch)
            if self.what == "train":
                self.state = out[0]
        self.jax.block_until_ready(out)

    def computed(self) -> dict[str, np.ndarray]:
        """Of one step: losses, logits, and the velocity by path, 'gradient + decay * weight'."""
        import optax
        from flax import traverse_util

        from inception import audit, pixels

        images = pixels.normalize(self.batch["image"], method="mean")
        apply = self.jax.jit(self.model.apply, static_argnames="train")
        variables = {"params": self.state.params}
        key = {"dropout": self.jax.random.key(0)}
        logits = apply(variables, images, train=True, rngs=key)
        found = {f"logits/{head}": np.asarray(values) for head, values in logits.items()}
        found["logits/eval"] = np.asarray(apply(variables, images, train=False)["main"])
        self.state, metrics = self.function(self.state, self.batch)
        found["loss"] = np.asarray(metrics["loss"])
        trace = optax.tree_utils.tree_get(self.state.opt_state, "trace")
        velocity = traverse_util.flatten_dict(trace, sep="/")
        found |= {f"velocity/{path}": np.asarray(values) for path, values in velocity.items()}
        traced = audit.trace(self.model, (1, *images.shape[1:]))
        found["macs"] = np.asarray(sum(layer.macs for layer in traced.layers))
        return found

    def peak_bytes(self) -> int | None:
        stats = self.jax.devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] if stats else None

    def product(self, n: int) -> Any:
        x = self.jax.numpy.ones((n, n))
        multiply = self.jax.jit(lambda x: x @ x)
        return lambda: multiply(x).block_until_ready()


class Torch:
    """The same in PyTorch."""

    def __init__(
        self,
        what: str,
        dtype: str,
        batch_size: int,
        px: int,
        *,
        compiled: bool,
        weights: dict[str, np.ndarray],
        dropout: bool = True,
    ):
        import googlenet_torch as plain
        import torch

        self.torch, self.plain = torch, plain
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.platform = "gpu" if torch.cuda.is_available() else "cpu"
        place = torch.device("cuda" if self.platform == "gpu" else "cpu")
        self.device = torch.cuda.get_device_name() if self.platform == "gpu" else "cpu"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as JAX
        torch.backends.cudnn.benchmark = True
        rates = {} if dropout else {"dropout": 0.0, "head_dropout": 0.0}
        self.module = plain.GoogLeNet(**rates)
        self.module.load_state_dict(plain.to_torch(weights))
        self.module = self.module.to(place, memory_format=torch.channels_last)
        images, labels = draw_batch(batch_size, px)
        self.images, self.labels = (torch.from_numpy(v).to(place) for v in (images, labels))
        self.what, self.place, self.dtype = what, place, dtype
        self.paths = list(weights)
        self.module.train(what == "train")
        self.optimizer = torch.optim.SGD(
            self.module.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True
        )
        forward = self.loss if what == "train" else self.module
        self.forward = torch.compile(forward) if compiled else forward

    def loss(self, images: Any, labels: Any) -> Any:
        return self.plain.loss(self.module(images), labels)

    def autocast(self) -> Any:
        half = self.dtype == "bfloat16"
        return self.torch.autocast(self.place.type, dtype=self.torch.bfloat16, enabled=half)

    def steps(self, count: int) -> None:
        for _ in range(count):
            if self.what == "train":
                self.optimizer.zero_grad(set_to_none=True)
                with self.autocast():
                    loss = self.forward(self.images, self.labels)
                loss.backward()
                self.optimizer.step()
            else:
                with self.torch.inference_mode(), self.autocast():
                    self.forward(self.images)
        if self.platform == "gpu":
            self.torch.cuda.synchronize()

    def computed(self) -> dict[str, np.ndarray]:
        """As Ours.computed."""
        from torch.utils.flop_counter import FlopCounterMode

        with self.torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                logits = self.module(self.images)
            found = {f"logits/{head}": values.cpu().numpy() for head, values in logits.items()}
            found["loss"] = self.plain.loss(logits, self.labels).cpu().numpy()
            self.module.eval()
            found["logits/eval"] = self.module(self.images)["main"].cpu().numpy()
            self.module.train()
        self.steps(1)
        velocity = {
            name: self.optimizer.state[p]["momentum_buffer"]
            for name, p in self.module.named_parameters()
        }
        ours = self.plain.to_ours(velocity, self.paths)
        found |= {f"velocity/{path}": values for path, values in ours.items()}
        flops = counter.get_total_flops()
        found["macs"] = np.asarray(flops // 2 // len(self.labels))
        return found

    def peak_bytes(self) -> int | None:
        return self.torch.cuda.max_memory_allocated() if self.platform == "gpu" else None

    def product(self, n: int) -> Any:
        x = self.torch.ones((n, n), device=self.place)

        def multiply() -> None:
            x @ x
            if self.platform == "gpu":
                self.torch.cuda.synchronize()

        return multiply


def resident(field: str) -> int:
    """Bytes of this process: VmRSS, now, or VmHWM, its most since the last reset."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def child(args: argparse.Namespace) -> None:
    """Builds a side, then does what comes on stdin, a JSON object a line, and answers likewise."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    if args.child == "ours":
        import jax  # noqa: F401  so that what the imports take is not counted
    else:
        import torch  # noqa: F401
    imported = resident("VmRSS")
    work = args.what, args.dtypes, int(args.batch_sizes), args.input_px
    dropout = {"dropout": not args.computed}
    if args.child == "ours":
        side: Any = Ours(*work, **dropout)
        if not pathlib.Path(args.weights).exists():
            np.savez(args.weights, **side.weights)
    else:
        weights = dict(np.load(args.weights))
        side = Torch(*work, compiled=args.child == "compile", weights=weights, **dropout)
    if args.computed:
        np.savez(args.computed, **side.computed())
        return
    start = time.perf_counter()
    side.steps(1)
    first = time.perf_counter() - start
    start = time.perf_counter()
    side.steps(1)
    second = time.perf_counter() - start
    answer(
        device=side.device, platform=side.platform, compile_seconds=first - second, seconds=second
    )
    for line in sys.stdin:
        order = json.loads(line)
        if "steps" in order:
            wall, processor = time.perf_counter(), time.process_time()
            side.steps(order["steps"])
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            answer(seconds=[wall / order["steps"], processor / order["steps"]])
        elif "product" in order:
            multiply = side.product(order["product"])
            times = []
            for _ in range(8):
                start = time.perf_counter()
                multiply()
                times.append(time.perf_counter() - start)
            answer(flops_per_second=2 * order["product"] ** 3 / min(times))
        elif side.peak_bytes() is None:  # the host's memory
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what compilation left behind
            pathlib.Path("/proc/self/clear_refs").write_text("5")
            side.steps(1)
            answer(peak=resident("VmHWM"), imported=imported)
        else:
            answer(peak=side.peak_bytes(), imported=0)


# The parent, which tells them when.


class Side:
    """A child process."""

    def __init__(self, name: str, what: str, dtype: str, batch_size: int, args: Any, **env: str):
        self.process = subprocess.Popen(
            [*command(name, what, dtype, batch_size, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        self.name = name
        self.ready = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.name}: the process ended; see above")
        return json.loads(line)

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def command(name: str, what: str, dtype: str, batch_size: int, args: Any) -> list[str]:
    return [
        sys.executable,
        __file__,
        f"--child={name}",
        f"--what={what}",
        f"--dtypes={dtype}",
        f"--batch_sizes={batch_size}",
        f"--input_px={args.input_px}",
        f"--weights={args.weights}",
        f"--cores={args.cores}",
    ]


def check_equal_work(args: argparse.Namespace, folder: pathlib.Path) -> int:
    """Compares one float32 step of 4 images without dropout; returns the multiply-adds an image.

    Raises:
        SystemExit: the two networks differ.
    """
    found = []
    for name in ("ours", "eager"):
        file = folder / f"{name}.npz"
        run = command(name, "train", "float32", 4, args)
        # JAX_DEFAULT_MATMUL_PRECISION and the other: float32 products, not TF32's, on GPUs.
        exact = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "NVIDIA_TF32_OVERRIDE": "0"}
        subprocess.run([*run, f"--computed={file}"], check=True, env={**os.environ, **exact})
        found.append(dict(np.load(file)))
    ours, theirs = found
    if ours.keys() != theirs.keys() or ours["macs"] != theirs["macs"]:
        raise SystemExit(f"not equal work: {ours['macs']} and {theirs['macs']} multiply-adds")
    worst: dict[str, float] = {}
    for key, values in ours.items():
        kind = key.split("/")[0]
        difference = np.linalg.norm(values - theirs[key]) / np.linalg.norm(theirs[key])
        worst[kind] = max(worst.get(kind, 0.0), float(difference))
    parameters = sum(v.size for k, v in ours.items() if k.startswith("velocity/"))
    print(
        f"equal work: {parameters:,} parameters, {int(ours['macs']):,} multiply-adds an image with "
        "heads in both; largest relative difference of one step: "
        f"logits {worst['logits']:.0e}, loss {worst['loss']:.0e}, "
        f"gradient of a parameter {worst['velocity']:.0e}",
        flush=True,
    )
    if not (worst["logits"] < 1e-3 and worst["loss"] < 1e-4 and worst["velocity"] < 1e-2):
        raise SystemExit("not equal work: the two networks compute different things")
    return int(ours["macs"])


def spread(values: np.ndarray) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f}-{values.max():.2f})"


def judged(ratio: float, targets: tuple[float, float]) -> str:
    """'floor 0.9, aim 1.2: floor' and so on; a target below the other is one to stay under."""
    floor, aim = targets
    reached = (lambda x: ratio <= x) if aim < floor else (lambda x: ratio >= x)
    verdict = "aim reached" if reached(aim) else "floor reached" if reached(floor) else "below"
    if aim < floor and verdict == "below":
        verdict = "above"
    return f"floor {floor:g}, aim {aim:g}: {verdict}"


def measure(what: str, dtype: str, batch_size: int, args: argparse.Namespace) -> dict[str, Any]:
    """Times of every side in turn, and their memory."""
    sides = [Side(name, what, dtype, batch_size, args) for name in args.sides.split(",")]
    steps = max(1, round(args.seconds / min(s.ready["seconds"] for s in sides)))
    times = {s.name: np.empty((2, args.rounds)) for s in sides}  # wall, processor
    for i in range(args.rounds):
        for s in sides[i % len(sides) :] + sides[: i % len(sides)]:
            times[s.name][:, i] = s.ask(steps=steps)["seconds"]
    result = {
        "times": times,
        "memory": {s.name: s.ask(memory=1) for s in sides},
        "product": max(s.ask(product=2048)["flops_per_second"] for s in sides),
        **{key: sides[0].ready[key] for key in ("device", "platform")},
        "compile_seconds": {s.name: s.ready["compile_seconds"] for s in sides},
    }
    for s in sides:
        s.close()
    return result


def report(what: str, dtype: str, batch_size: int, macs: int, found: dict[str, Any]) -> None:
    """Prints one comparison."""
    print(f"\n{what} {dtype}, batch {batch_size}, {found['device']}")
    print(
        f"{'':<10}{'images/s':>9}{'GFLOP/s':>9}{'of product':>11}{'peak MB':>9}{'first step s':>13}"
    )
    for name, (times, _) in found["times"].items():
        rate = batch_size / np.median(times)
        flops = 2 * macs * rate
        memory = found["memory"][name]
        print(
            f"{name:<10}{rate:>9.1f}{flops / 1e9:>9.0f}{flops / found['product']:>11.0%}"
            f"{memory['peak'] / 1e6:>9.0f}{found['compile_seconds'][name]:>13.1f}",
            flush=True,
        )
    for name, times in found["times"].items():
        if name != "ours" and "ours" in found["times"]:
            ratios, processor = times / found["times"]["ours"]
            line = f"ours against {name}: {spread(ratios)}x"
            if found["platform"] == "cpu":
                line += f", in processor time {spread(processor)}x"
            if targets := TARGETS.get((found["platform"], what, dtype, name)):
                line += f"   {judged(float(np.median(ratios)), targets)}"
            print(line, flush=True)
    if what == "train" and {"ours", "eager"} <= found["memory"].keys():
        ratio = found["memory"]["ours"]["peak"] / found["memory"]["eager"]["peak"]
        print(f"peak memory against eager: {ratio:.2f}x   {judged(ratio, MEMORY_TARGET)}")


def compile_times(dtype: str, batch_size: int, args: argparse.Namespace) -> None:
    """Prints the seconds that the training step takes to compile, cold and cached."""
    print("\ncompilation of our training step")
    with tempfile.TemporaryDirectory() as cache:
        env = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for name, targets in zip(("cold", "cached"), COMPILE_TARGETS, strict=True):
            side = Side("ours", "train", dtype, batch_size, args, **env)
            seconds = side.ready["compile_seconds"]
            side.close()
            print(f"{name:<8}{seconds:>6.1f} s   {judged(seconds, targets)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="train,eval")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batch_sizes", default="32", help="several: also each at its best")
    parser.add_argument("--input_px", type=int, default=224, help="even: odd ones pool otherwise")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn, about")
    parser.add_argument("--cores", type=int, default=0, help="default: all")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    parser.add_argument("--computed", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the sides share a GPU's memory
    with tempfile.TemporaryDirectory() as folder:
        args.weights = f"{folder}/weights.npz"
        macs = check_equal_work(args, pathlib.Path(folder))
        batch_sizes = [int(b) for b in args.batch_sizes.split(",")]
        for what in args.what.split(","):
            # A gradient costs two more, but for that of the stem's input; the heads are training's.
            for dtype in args.dtypes.split(","):
                best: dict[str, float] = {}
                for batch_size in batch_sizes:
                    found = measure(what, dtype, batch_size, args)
                    report(what, dtype, batch_size, of_step(macs, what, args.input_px), found)
                    for name, (times, _) in found["times"].items():
                        rate = batch_size / float(np.median(times))
                        best[name] = max(best.get(name, 0.0), rate)
                if len(batch_sizes) > 1:
                    print("each at its best: " + ", ".join(f"{k} {v:.0f}" for k, v in best.items()))
        if "train" in args.what:
            compile_times(args.dtypes.split(",")[0], batch_sizes[0], args)


def of_step(macs: int, what: str, px: int) -> int:
    """Multiply-adds of an image in a step, from those of a forward pass with heads."""
    stem = math.ceil(px / 2) ** 2 * 7 * 7 * 3 * 64
    if what == "train":
        return 3 * macs - stem  # the gradients of weights and of inputs, but for the pixels'
    head_4a = 4 * 4 * 512 * 128 + 2048 * 1024 + 1024 * 1000
    head_4d = 4 * 4 * 528 * 128 + 2048 * 1024 + 1024 * 1000
    return macs - head_4a - head_4d


if __name__ == "__main__":
    main()
