"""Times a training step and a forward pass, ours in turns with the same network in PyTorch.

    pip install -e '.[benchmarks]'
    python benchmarks/step.py [--what=train,eval] [--dtypes=float32,bfloat16] [--rounds=7]
    python benchmarks/step.py --batch_sizes=128,256,512     # on a GPU: each at its best batch

Plain v1 at 224 px: local response normalisation, true 5x5, biases, both heads, dropout. PyTorch's
network is `googlenet_torch.py`, channels_last, eager and torch.compile; its bfloat16 is autocast.
Both sides get the same weights, uint8 pixels and labels. A training step consists of normalisation,
the loss with .3 of each head's, gradients, and SGD with momentum and weight decay. Ours is the step
of `train`, with its metrics. First both sides compute one step without dropout, and the script
compares logits, losses and gradients. The side torchvision is a user's alternative: torchvision's
googlenet (BatchNorm, 3x3 for 5x5, no LRN), also channels_last, with autocast and torch.compile.

Each side is a process with one compiled program. The sides take turns, one at a time, with all
cores. A ratio is the median over rounds of the ratio of the two times in a round. On a busy machine
`--cores=1` and the ratio of processor times are the most reliable.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import needs
import numpy as np
import step_sides

SIDES = ("ours", "eager", "compile", "torchvision")
TARGETS = {  # (platform, what, dtype, against): (floor, aim), of images/s
    ("cpu", "train", "float32", "eager"): (0.9, 1.2),
    ("cpu", "train", "float32", "compile"): (0.8, 1.1),
    ("cpu", "eval", "float32", "compile"): (0.8, 1.1),
    ("gpu", "train", "bfloat16", "torchvision"): (1.1, 1.5),
    ("gpu", "eval", "bfloat16", "torchvision"): (1.0, 1.3),
}
MEMORY_TARGET = (1.0, 0.7)  # of eager's peak, in training
COMPILE_TARGETS = ((12, 8), (2, 1))  # seconds: cold, with the persistent cache


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
        self.ready: dict[str, Any] = {}

    def wait(self) -> "Side":
        """Waits until the side has taken its first steps; returns the side."""
        self.ready = self._answer()
        return self

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
    """Compares a float32 step of 4 images without dropout; returns the multiply-adds per image.

    Raises:
        SystemExit: the two networks differ.
    """
    found = []
    for name in ("ours", "eager"):
        file = folder / f"{name}.npz"
        run = command(name, "train", "float32", 4, args)
        # Float32 products on GPUs instead of TF32, for JAX and for PyTorch.
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


def judged(ratio: float, targets: tuple[float, float] | None) -> str:
    """A verdict, '   floor 0.9, aim 1.2: floor reached'; less is better if aim is below floor."""
    if not targets:
        return ""
    floor, aim = targets
    reached = (lambda x: ratio <= x) if aim < floor else (lambda x: ratio >= x)
    verdict = "aim reached" if reached(aim) else "floor reached" if reached(floor) else "below"
    if aim < floor and verdict == "below":
        verdict = "above"
    return f"   floor {floor:g}, aim {aim:g}: {verdict}"


def measure(what: str, dtype: str, batch_size: int, args: argparse.Namespace) -> dict[str, Any]:
    """Starts the sides one after the other and returns their `turns`."""
    names = args.sides.split(",")
    sides = [Side(name, what, dtype, batch_size, args).wait() for name in names]
    result = turns(sides, args)
    for s in sides:
        s.close()
    return result


def turns(sides: list[Side], args: argparse.Namespace) -> dict[str, Any]:
    """Times the sides in turns and reads their memory; leaves them running."""
    steps = max(1, round(args.seconds / min(s.ready["seconds"] for s in sides)))
    times = {s.name: np.empty((2, args.rounds)) for s in sides}  # wall, processor
    for i in range(args.rounds):
        for s in sides[i % len(sides) :] + sides[: i % len(sides)]:
            times[s.name][:, i] = s.ask(steps=steps)["seconds"]
    return {
        "times": times,
        "steps": steps,
        "memory": {s.name: s.ask(memory=1) for s in sides},
        "product": max(s.ask(product=2048)["flops_per_second"] for s in sides),
        **{key: sides[0].ready[key] for key in ("device", "platform")},
        "first_step": {s.name: s.ready["first_step_seconds"] for s in sides},
    }


def report(what: str, dtype: str, batch_size: int, macs: int, found: dict[str, Any]) -> None:
    """Prints one comparison."""
    print(f"\n{what} {dtype}, batch {batch_size}, {found['device']}")
    print(
        f"{'':<12}{'images/s':>9}{'GFLOP/s':>9}{'of product':>11}{'peak MB':>9}{'first step s':>13}"
    )
    for name, (times, _) in found["times"].items():
        rate = batch_size / np.median(times)
        flops = 2 * macs * rate
        done = f"{flops / 1e9:>9.0f}{flops / found['product']:>11.0%}"
        memory = found["memory"][name]
        print(
            f"{name:<12}{rate:>9.1f}{'' if name == 'torchvision' else done:>20}"
            f"{memory['peak'] / 1e6:>9.0f}{found['first_step'][name]:>13.1f}",
            flush=True,
        )
    for name, times in found["times"].items():
        if name != "ours" and "ours" in found["times"]:
            ratios, processor = times / found["times"]["ours"]
            line = f"ours against {name}: {spread(ratios)}x"
            if found["platform"] == "cpu":
                line += f", in processor time {spread(processor)}x"
            targets = TARGETS.get((found["platform"], what, dtype, name))
            print(line + judged(float(np.median(ratios)), targets), flush=True)
    if what == "train" and {"ours", "eager"} <= found["memory"].keys():
        ratio = found["memory"]["ours"]["peak"] / found["memory"]["eager"]["peak"]
        print(f"peak memory against eager: {ratio:.2f}x{judged(ratio, MEMORY_TARGET)}")


def report_best(best: dict[str, float], what: str, dtype: str, platform: str) -> None:
    """Prints images/s of each side at its best batch, and our ratio to the others."""
    print(f"\n{what} {dtype}, each at its best batch")
    for name, rate in best.items():
        line = f"{name:<12}{rate:>9.1f}"
        if name != "ours" and "ours" in best:
            ratio = best["ours"] / rate
            line += f"   ours against it {ratio:.2f}x"
            line += judged(ratio, TARGETS.get((platform, what, dtype, name)))
        print(line)


def compile_times(dtype: str, batch_size: int, args: argparse.Namespace) -> None:
    """Prints the seconds that the training step takes to compile, cold and cached."""
    print("\ncompilation of our training step")
    with tempfile.TemporaryDirectory() as cache:
        env = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for name, targets in zip(("cold", "cached"), COMPILE_TARGETS, strict=True):
            side = Side("ours", "train", dtype, batch_size, args, **env).wait()
            seconds, first = (side.ready[f"{key}_seconds"] for key in ("compile", "first_step"))
            side.close()
            print(
                f"{name:<8}{seconds:>6.2f} s, until the first step is done {first:.1f} s"
                f"{judged(seconds, targets)}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="train,eval")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batch_sizes", default="32", help="several: also report the best")
    parser.add_argument(
        "--input_px", type=int, default=224, help="a multiple of 32: others pool otherwise"
    )
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="approximate time of a turn")
    parser.add_argument("--cores", type=int, default=0, help="default: all")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    parser.add_argument("--computed", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.input_px % 32 or args.input_px < 96:
        parser.error(f"--input_px={args.input_px}: a multiple of 32, 96 or more")
    if args.child:
        step_sides.child(args)
        return
    if unknown := set(args.sides.split(",")) - set(SIDES):
        parser.error(f"--sides: {', '.join(sorted(unknown))}: choose from {', '.join(SIDES)}")
    needs.packages("benchmarks", "torch", *["torchvision"] * ("torchvision" in args.sides))
    if not {"compile", "torchvision"}.isdisjoint(args.sides.split(",")):
        needs.compiler()
    needs.cores(args.cores)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the sides share a GPU's memory
    with tempfile.TemporaryDirectory() as folder:
        args.weights = f"{folder}/weights.npz"
        macs = check_equal_work(args, pathlib.Path(folder))
        batch_sizes = [int(b) for b in args.batch_sizes.split(",")]
        for what in args.what.split(","):
            for dtype in args.dtypes.split(","):
                best: dict[str, float] = {}
                for batch_size in batch_sizes:
                    found = measure(what, dtype, batch_size, args)
                    report(what, dtype, batch_size, of_step(macs, what, args.input_px), found)
                    for name, (times, _) in found["times"].items():
                        rate = batch_size / float(np.median(times))
                        best[name] = max(best.get(name, 0.0), rate)
                if len(batch_sizes) > 1:
                    report_best(best, what, dtype, found["platform"])
        if "train" in args.what:
            compile_times(args.dtypes.split(",")[0], batch_sizes[0], args)


def of_step(macs: int, what: str, px: int) -> int:
    """Multiply-adds per image of a step, from those of a forward pass with heads.

    Gradients cost twice as many, minus that of the stem's input; only training computes heads.
    """
    stem = (px // 2) ** 2 * 7 * 7 * 3 * 64
    if what == "train":
        return 3 * macs - stem
    pooled = ((px // 16 - 5) // 3 + 1) ** 2
    heads = (pooled * (c * 128 + 128 * 1024) + 1024 * 1000 for c in (512, 528))
    return macs - sum(heads)


if __name__ == "__main__":
    main()
