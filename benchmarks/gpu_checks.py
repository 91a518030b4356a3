"""The steps of gpu.py: each a function(sizes, tell, scratch) -> lines about what is wrong.

`tell(title, rows)` reports a table as soon as it is known; `scratch` is an empty folder.
"""

import argparse
import concurrent.futures
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import step
import step_sides

ROOT = pathlib.Path(__file__).resolve().parents[1]
Tell = Callable[[str, list[dict[str, Any]]], None]
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "torchvision",
            "nvidia-cudnn-cu13", "nvidia-nvimgcodec-cu13", "opencv-python-headless")  # fmt: skip
SMI = ("name", "driver_version", "memory.total", "power.limit", "clocks.sm", "clocks.max.sm",
       "clocks.max.mem", "temperature.gpu")  # fmt: skip


class Sizes(NamedTuple):
    """Of images in px, of batches and sets in images."""

    px: int
    checked: int  # the batch of the step that is compared
    evaluated: int  # no multiple of the batch, which is `batch`
    batch: int
    waves: tuple[tuple[int, ...], ...]  # batches whose programs are compiled at once
    rounds: int
    seconds: float  # of a turn
    photos: int
    steps: int
    demo: tuple[str, ...]  # knobs
    network: tuple[str, ...]  # knobs of steps that use the command line


FULL = Sizes(224, 16, 1003, 256, ((256,), (512, 128), (1024,)), 5, 0.6, 2560, 120, (), ())
SMALL = Sizes(
    96, 2, 21, 8, ((4,),), 2, 0.2, 48, 6,
    ("--config.model.width=.25", "--config.optim.epochs=1."),
    ("--config.model.width=.1", "--config.input_px=96"),
)  # fmt: skip


def smi(*fields: str) -> list[str]:
    """What nvidia-smi says of the first GPU; [] without one."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return said.splitlines()[0].split(", ") if said else []


def environment(_sizes: Sizes, tell: Tell, _scratch: pathlib.Path) -> list[str]:
    """The device, its driver, clocks and power limit; versions."""
    import jax

    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0))
    found = {"device": f"{device.device_kind} ({device.platform})", "CPU cores": cores}
    found |= dict(zip(SMI, smi(*SMI), strict=False)) | {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    tell("Environment", [{"what": what, "value": value} for what, value in found.items()])
    return []


def correctness(sizes: Sizes, tell: Tell, _scratch: pathlib.Path) -> list[str]:
    """A training step, the kernels' forms and an evaluation, on the device and on the CPU."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    return [*_forms(tell), *_step(sizes, tell), *_evaluation(sizes, tell)]


def _mesh(device: Any) -> Any:
    import jax

    auto = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.asarray([device]), ("data",), axis_types=auto)


def _apart(found: Any, expected: Any) -> float:
    """The norm of the difference, relative to the expected one's."""
    found, expected = (np.asarray(v, np.float32).ravel() for v in (found, expected))
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def _step(sizes: Sizes, tell: Tell) -> list[str]:
    """One step without dropout: its loss and gradients against the CPU's in float32."""
    import jax

    @functools.cache  # where the device is the CPU
    def computed(device: Any, dtype: str) -> concurrent.futures.Future[Any]:
        build = functools.partial(step_sides.Ours, "train", dtype, sizes.checked, sizes.px)
        return threads.submit(lambda: build(dropout=False, mesh=_mesh(device)).stepped())

    places = {"CPU": jax.devices("cpu")[0], "device": jax.devices()[0]}
    kinds = [(place, dtype) for dtype in ("float32", "bfloat16") for place in places]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:  # compiling takes a core each
        made = {kind: computed(places[kind[0]], kind[1]) for kind in kinds}
        results = {kind: future.result() for kind, future in made.items()}
    expected = results["CPU", "float32"]
    paths = [path for path in expected if path != "loss"]
    whole = lambda found: np.concatenate([found[path].ravel() for path in paths])  # noqa: E731
    rows = []
    for (place, dtype), found in results.items():
        worst, path = max((_apart(found[p], expected[p]), p) for p in paths)
        row = {"step on": place, "dtype": dtype, "loss": _apart(found["loss"], expected["loss"])}
        row |= {"gradient": _apart(whole(found), whole(expected)), "worst parameter's": worst}
        rows.append(row | {"which": path.removeprefix("velocity/")})
    tell("Relative difference from the CPU's float32", rows)
    _, exact, cpu, half = rows
    wrong = []
    if not (
        exact["loss"] < 1e-4 and exact["gradient"] < 1e-3 and exact["worst parameter's"] < 0.01
    ):
        wrong.append("the float32 step is not the CPU's")
    # Roundings differ: as far from float32 as the CPU's is as near as they need to be.
    if not (half["loss"] < 0.01 and half["gradient"] < 1.5 * cpu["gradient"] + 0.01):
        wrong.append("the bfloat16 step is further from float32 than the CPU's")
    return wrong


def _cases() -> dict[str, list[tuple[Callable, tuple[tuple[int, ...], ...]]]]:
    """operation -> functions with the shapes of their inputs, odd ones."""
    from inception import ops

    layouts = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def convolution(stride: int, padding: int) -> Callable:
        around = ((padding, padding),) * 2
        return lambda x, k: ops.convolution(x, k, (stride, stride), around, **layouts)

    pool = lambda **choices: functools.partial(ops.max_pool, **choices)  # noqa: E731
    return {
        "convolution": [
            (convolution(2, 3), ((3, 37, 29, 3), (7, 7, 3, 13))),
            (convolution(1, 1), ((3, 15, 9, 24), (3, 3, 24, 17))),
            (convolution(1, 0), ((1, 7, 7, 33), (1, 1, 33, 5))),
        ],
        "max_pool": [
            (pool(stride=1), ((3, 15, 9, 7),)),
            (pool(stride=2), ((3, 29, 56, 64),)),
            (pool(stride=2, window=2), ((1, 7, 8, 3),)),
        ],
        "local_response_normalization": [
            (ops.local_response_normalization, ((3, 9, 7, 65),)),
            (ops.local_response_normalization, ((1, 1, 1, 3),)),
        ],
        "relu": [(ops.relu, ((3, 9, 7, 5),))],
    }


def _forms(tell: Tell) -> list[str]:
    """Values and gradients of each form of this platform against the plain one's."""
    import jax
    import jax.numpy as jnp

    from inception import kernels

    here, rows, wrong = jax.devices()[0].platform, [], []
    own = [operation for operation, forms in kernels.FORMS.items() if here in forms]
    wrong += [f"{operation} has no case in {__file__}" for operation in set(own) - _cases().keys()]

    def computed(name: str, function: Callable, *inputs: Any) -> Any:
        def with_gradients(gradient: Any, *inputs: Any) -> Any:
            y, back = jax.vjp(function, *inputs)
            return y, *back(gradient.astype(y.dtype))

        shape = jax.eval_shape(function, *inputs).shape
        gradient = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
        return jax.jit(kernels.on(name)(with_gradients))(gradient, *inputs)

    for operation in set(own) & _cases().keys():
        for dtype, most in (("float32", 1e-5), ("bfloat16", 2e-2)):
            found = []
            for function, shapes in _cases()[operation]:
                rng = np.random.default_rng(0)  # quarters: ties, and zeros
                draws = [np.round(4 * rng.normal(size=shape)) / 4 for shape in shapes]
                inputs = [jnp.asarray(draw, dtype) for draw in draws]
                pair = [computed(name, function, *inputs) for name in (here, "any")]
                found.append([_apart(*both) for both in zip(*pair, strict=True)])
            values, gradients = max(f[0] for f in found), max(max(f[1:]) for f in found)
            row = {"operation": operation, "form": kernels.FORMS[operation][here], "dtype": dtype}
            rows.append(row | {"values": values, "gradients": gradients})
            if not max(values, gradients) < most:
                wrong.append(f"{operation} in {dtype} is not the plain form's")
    tell("Relative difference of forms from the plain ones", rows)
    return wrong


def _evaluation(sizes: Sizes, tell: Tell) -> list[str]:
    """Every image counted once, and the top five of each, in float32."""
    import jax

    from inception.config import load_config
    from inception.evaluation.evaluator import Evaluator
    from inception.runtime import sharding

    knobs = {"data.source": "synthetic", "data.examples": sizes.evaluated, "input_px": sizes.px,
             "data.normalization": "mean", "run.eval_batch_size": sizes.batch}  # fmt: skip
    overrides = [f"--config.{knob}={value}" for knob, value in knobs.items()]
    config = load_config(str(ROOT / "experiments" / "base.py"), overrides)
    state = step_sides.Ours("eval", "float32", 1, sizes.px, mesh=_mesh(jax.devices()[0])).state
    variables = jax.device_get(state)
    outcomes = []
    for device in (jax.devices("cpu")[0], jax.devices()[0]):
        evaluator = Evaluator(config, _mesh(device), split="val")
        outcomes.append(evaluator(sharding.replicate(variables, _mesh(device))))
    cpu, own = outcomes
    row = {
        "images": sizes.evaluated,
        "counted": own.count,
        "same top five": int((own.top == cpu.top).all(1).sum()),
        "probabilities apart": float(np.abs(own.probabilities - cpu.probabilities).max()),
    }
    tell("Evaluation on the device against the CPU, float32", [row])
    wrong = [] if own.count == sizes.evaluated else ["evaluation did not count each image once"]
    # A tie may go either way, and none is expected.
    return wrong + ([] if row["same top five"] == own.count else ["the top five differ"])


def _sampled(side: step.Side, steps: int) -> dict[str, float]:
    """Watts and clock of the GPU while a side runs, medians; {} where they cannot be read."""
    command = ["nvidia-smi", "--query-gpu=power.draw,clocks.sm", "--format=csv,noheader,nounits"]
    try:
        reader = subprocess.Popen([*command, "-lms", "100"], stdout=subprocess.PIPE, text=True)
    except OSError:
        return {}
    side.ask(steps=steps)
    reader.terminate()
    lines = [line.split(", ") for line in reader.communicate()[0].splitlines()]
    try:
        pairs = [(float(power), float(clock)) for power, clock in lines]
        half = pairs[len(pairs) // 2 :]  # at first it is idle
        return {
            "W": statistics.median(p for p, _ in half),
            "MHz": statistics.median(c for _, c in half),
        }
    except ValueError:
        return {}


def rates(sizes: Sizes, tell: Tell, scratch: pathlib.Path) -> list[str]:
    """Training and evaluation in images/s, beside torchvision's network, in turns."""
    wrong, names = [], ["ours", "torchvision"]
    if not importlib.util.find_spec("torchvision"):
        names, wrong = ["ours"], ["torchvision is missing: ours alone is measured"]
    weights = scratch / "none.npz"  # each side has its own
    np.savez(weights)
    args = argparse.Namespace(
        input_px=sizes.px, weights=weights, cores=0, rounds=sizes.rounds, seconds=sizes.seconds
    )
    for wave in sizes.waves:
        kinds = [(what, batch) for batch in wave for what in ("train", "eval")]
        begun = {
            k: [step.Side(name, k[0], "bfloat16", k[1], args) for name in names] for k in kinds
        }
        ready: dict[Any, list[step.Side]] = {kind: [] for kind in kinds}
        for kind, sides in begun.items():  # all of them, before one is measured
            for side in sides:
                try:
                    ready[kind].append(side.wait())
                except SystemExit:
                    wrong.append(f"{side.name}'s {kind[0]} at batch {kind[1]} ended at its start")
        for kind, sides in ready.items():
            if sides:
                tell("Images/s, bfloat16", _compared(*kind, sides, step.turns(sides, args)))
        for side in (side for sides in ready.values() for side in sides):
            side.close()
    return wrong


def _compared(
    what: str, batch: int, sides: list[step.Side], found: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row a side."""
    rows = []
    for side in sides:
        times = found["times"][side.name][0]
        row: dict[str, Any] = {"what": what, "batch": batch, "side": side.name}
        row |= {"images/s": batch / float(np.median(times)), "ms": 1e3 * float(np.median(times))}
        row |= {"ours against it": None, "target": None}
        if side.name != "ours" and "ours" in found["times"]:
            ratios = times / found["times"]["ours"][0]
            targets = step.TARGETS.get((found["platform"], what, "bfloat16", side.name))
            row["ours against it"] = step.spread(ratios)
            row["target"] = step.judged(float(np.median(ratios)), targets).strip() or None
        row |= {"peak GB": found["memory"][side.name]["peak"] / 1e9}
        row |= {"first step s": found["first_step"][side.name]}
        rows.append(row | _sampled(side, 2 * found["steps"]))
    return rows


def _launch(*argv: str) -> dict[str, Any]:
    """launch.py's result; where it fails, the line that it printed is this step's."""
    command = [sys.executable, "launch.py", *argv, "--json"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(1)
    return json.loads(run.stdout.splitlines()[-1])


def _base(sizes: Sizes) -> tuple[str, ...]:
    return "--config=experiments/base.py", "--config.model.dtype=bfloat16", *sizes.network


def predicted(sizes: Sizes, device: str) -> dict[str, float] | str:
    """Seconds by layer that `plan` gives for such a device; without them, why there are none."""
    names = ("h200", "b200", "a100", "h100")
    name = next((n for n in names if n.upper() in device.upper()), "h100")
    batch, topology = f"--config.optim.batch_size={sizes.batch}", f"--topology={name}"
    argv = ["plan", *_base(sizes), batch, topology, "--what=train", "--images=1281167", "--json"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}  # leave the GPU alone
    run = subprocess.run(
        [sys.executable, "launch.py", *argv], cwd=ROOT, env=env, capture_output=True, text=True
    )
    if run.returncode:
        return (run.stderr.splitlines() or ["no reason given"])[-1]
    return {
        row["name"]: row["seconds"] for row in json.loads(run.stdout.splitlines()[-1])["layers"]
    }


def layers(sizes: Sizes, tell: Tell, _scratch: pathlib.Path) -> list[str]:
    """Measured time by layer of a training step, beside the predicted one where there is one."""
    device = (smi("name") or [""])[0]
    with concurrent.futures.ThreadPoolExecutor(1) as thread:  # compiles meanwhile
        prediction = thread.submit(predicted, sizes, device)
        found = _launch("bench", *_base(sizes), f"--batch_size={sizes.batch}", "--profile")
        measured = {row["name"]: row["seconds"] for row in found["profile"]["rows"]}
        expected = prediction.result()
    whole: dict[str, Any] = {"batch": sizes.batch, "measured ms": 1e3 * found["seconds_per_step"]}
    if isinstance(expected, str):
        tell("A training step", [{**whole, "predicted ms": f"none: {expected}"}])
        expected = {}
    else:
        tell("A training step", [{**whole, "predicted ms": 1e3 * sum(expected.values())}])
    rows = []
    for name in dict.fromkeys([*measured, *expected]):
        ms = [1e3 * times[name] if name in times else None for times in (measured, expected)]
        ratio = ms[0] / ms[1] if ms[0] is not None and ms[1] else None
        rows.append({"layer": name, "measured ms": ms[0], "predicted ms": ms[1], "ratio": ratio})
    tell("By layer", rows)
    return []


def _write_photos(folder: pathlib.Path, count: int) -> None:
    """Smooth noise as JPEGs of 500x375 px, ten classes; an eighth is for validation."""
    from PIL import Image

    def write(i: int) -> None:
        noise = np.random.default_rng(i).integers(0, 256, (60, 80, 3)).astype(np.uint8)
        photo = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
        path = folder / ("val" if i % 8 == 0 else "train") / f"class {i // 8 % 10}"
        path.mkdir(parents=True, exist_ok=True)
        photo.save(path / f"{i:05d}.jpg", quality=92)

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(write, range(count)))


def stores(sizes: Sizes, tell: Tell, scratch: pathlib.Path) -> list[str]:
    """Short runs from a store of JPEGs and from one of pixels: does the input keep up?"""
    _write_photos(scratch / "photos", sizes.photos)
    epochs = sizes.steps * sizes.batch / (sizes.photos * 7 / 8)
    knobs = {"data.source": "store", "data.eval_split": "val", "model.classes": 10,
             "optim.batch_size": sizes.batch, "optim.epochs": epochs, "optim.warmup_epochs": 0.0,
             "optim.learning_rate": 1e-3, "run.eval_batch_size": sizes.batch}  # fmt: skip
    overrides = [f"--config.{knob}={value}" for knob, value in knobs.items()]
    for kind in ("jpeg", "rgb"):
        store, run = (str(scratch / f"{what}_{kind}") for what in ("store", "run"))
        source = (f"--source={scratch / 'photos'}", f"--format={kind}", "--short_side=256")
        _launch("prepare", *source, f"--output={store}")
        start, data = time.monotonic(), f"--config.data.path={store}"
        found = _launch("train", *_base(sizes), *overrides, data, f"--workdir={run}")
        row = {"store": kind, "batch": sizes.batch, "steps": found["steps"]}
        row |= {"images/s": found["images_per_second"], "waiting": found["waiting_for_data"]}
        tell("Runs; waiting is the share of the time without data", [
            row | {"s in all": time.monotonic() - start}
        ])  # fmt: skip
    return []


def demo(sizes: Sizes, tell: Tell, scratch: pathlib.Path) -> list[str]:
    """The run of `make demo`."""
    start = time.monotonic()
    found = _launch(
        "train", "--config=experiments/digits.py", f"--workdir={scratch / 'digits'}", *sizes.demo
    )
    row = {"top-1 %": 100 - found["top1_error"], "images": found["count"], "steps": found["steps"]}
    row |= {"images/s": found["images_per_second"], "s in all": time.monotonic() - start}
    tell("make demo", [row])
    return []
