"""gpu.py's steps about the machine and about speed; gpu_checks.py defines a step."""

import argparse
import collections
import concurrent.futures
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import step

ROOT = pathlib.Path(__file__).resolve().parents[1]
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "torchvision",
            "nvidia-cudnn-cu13", "nvidia-nvimgcodec-cu13", "opencv-python-headless")  # fmt: skip
SMI = ("name", "driver_version", "memory.total", "power.limit", "clocks.sm", "clocks.max.sm",
       "clocks.max.mem", "temperature.gpu")  # fmt: skip


def smi(*fields: str) -> list[str]:
    """nvidia-smi's values for the first GPU; [] without a GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return said.splitlines()[0].split(", ") if said else []


def environment(_sizes: Any, tell: Callable, _scratch: pathlib.Path) -> list[str]:
    """Reports the device, its driver, clocks and power limit, and versions."""
    import jax

    device = jax.devices()[0]
    found = {"device": f"{device.device_kind} ({device.platform})"}
    found |= {"CPU cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    found |= dict(zip(SMI, smi(*SMI), strict=False))
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    found |= {name: installed.get(name, "missing") for name in VERSIONS}
    tell("Environment", *({"what": what, "value": value} for what, value in found.items()))
    return []


def rates(sizes: Any, tell: Callable, scratch: pathlib.Path) -> list[str]:
    """Measures training and evaluation in images/s, in turns with torchvision's network.

    Compiles several programs at once, so that their autotuning overlaps.
    """
    names, wrong = ["ours", "torchvision"], []
    if not importlib.util.find_spec("torchvision"):
        names = ["ours"]
        tell("Images/s, bfloat16", {"side": "torchvision", "what": "is not installed"})
    weights = scratch / "none.npz"
    np.savez(weights)  # each side draws its own weights
    args = argparse.Namespace(input_px=sizes.px, weights=weights, cores=0, **sizes.turns)
    for wave in sizes.waves:
        kinds = [(what, batch) for batch in wave for what in ("train", "eval")]
        begun = {k: [step.Side(n, k[0], "bfloat16", k[1], args) for n in names] for k in kinds}
        ready: dict[Any, list[step.Side]] = {kind: [] for kind in kinds}
        for kind, side in [(kind, side) for kind, sides in begun.items() for side in sides]:
            try:
                ready[kind].append(side.wait())  # all sides, before any is measured
            except SystemExit:
                wrong.append(f"{side.name}, {kind[0]}, batch {kind[1]}: no first step")
        for kind, sides in ready.items():
            if sides:
                tell("Images/s, bfloat16", *_compared(*kind, sides, step.turns(sides, args)))
            for side in sides:
                side.close()
    return wrong


def _compared(
    what: str, batch: int, sides: list[step.Side], found: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row per side."""
    rows = []
    for side in sides:
        times = found["times"][side.name][0]
        row: dict[str, Any] = {"what": what, "batch": batch, "side": side.name}
        row |= {"images/s": batch / float(np.median(times)), "ms": 1e3 * float(np.median(times))}
        row |= {"peak GB": found["memory"][side.name]["peak"] / 1e9, **_power(side, found["steps"])}
        row |= {"until first step s": found["first_step"][side.name]}
        if side.name != "ours" and "ours" in found["times"]:
            ratios = times / found["times"]["ours"][0]
            targets = step.TARGETS.get((found["platform"], what, "bfloat16", side.name))
            row |= {"ours is faster": f"{step.spread(ratios)}x"}
            row |= {"target": step.judged(float(np.median(ratios)), targets).strip()}
        rows.append(row)
    return rows


def _power(side: step.Side, steps: int) -> dict[str, float]:
    """Median watts and clock while a side runs; {} if they cannot be read."""
    if not smi("name"):
        return {}
    read = []
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        running = thread.submit(side.ask, steps=4 * steps)  # watts are averages over a second
        while not running.done():
            read.append(smi("power.draw", "clocks.sm"))
    try:
        later = np.asarray(read[len(read) // 2 :], float)
        return dict(zip(("W", "MHz"), np.median(later, 0).tolist(), strict=True))
    except (ValueError, TypeError):  # a value is [N/A] or missing
        return {}


def _launch(*argv: str, **env: str) -> dict[str, Any]:
    """launch.py's result; SystemExit if it fails, and its last line becomes this step's."""
    command = [sys.executable, "launch.py", *argv, "--json"]
    env = {**os.environ, **env}
    run = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise SystemExit(1)
    return json.loads(run.stdout.splitlines()[-1])


def _base(sizes: Any) -> tuple[str, ...]:
    return "--config=experiments/base.py", "--config.model.dtype=bfloat16", *sizes.knobs


def predicted(sizes: Any) -> dict[str, float]:
    """Seconds by module that `plan` predicts for this device; {} if it does not know the device."""
    device = "".join(smi("name")).lower()
    name = next((n for n in ("h100", "h200", "b200", "a100") if n in device), "")
    if not name:
        return {}
    size = f"--config.optim.batch_size={sizes.batch}"
    argv = ["plan", *_base(sizes), size, f"--topology={name}", "--what=train", "--images=1281167"]
    try:
        found = _launch(*argv, JAX_PLATFORMS="cpu")  # does not touch the GPU
    except SystemExit:
        return {}
    return {row["name"]: row["seconds"] for row in found["layers"]}


def layers(sizes: Any, tell: Callable, _scratch: pathlib.Path) -> list[str]:
    """Measures a training step's time by module, beside the predicted time."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        prediction = thread.submit(predicted, sizes)  # compiles in parallel
        found = _launch("bench", *_base(sizes), f"--batch_size={sizes.batch}", "--profile")
        measured: collections.Counter[str] = collections.Counter()
        for row in found["profile"]["rows"]:
            measured[row["name"].split("/")[0]] += row["seconds"]
        expected = collections.Counter(prediction.result())
    outside = ("input", "loss", "optimizer")  # a profile does not separate them
    if expected:
        expected["input, loss, optimizer"] = sum(expected.pop(name, 0.0) for name in outside)
    row = {"batch": sizes.batch, "measured ms": 1e3 * found["seconds_per_step"]}
    tell("A step", row | {"predicted ms": 1e3 * sum(expected.values()) or "none: see gpu.log"})
    rows = []
    for name in dict.fromkeys([*measured, *expected]):
        ms, other = (1e3 * times.get(name, 0.0) for times in (measured, expected))
        rows.append(
            {"module": name, "measured ms": ms, "share %": ms / 10 / sum(measured.values())}
        )
        if other:
            rows[-1] |= {"predicted ms": other, "measured/predicted": ms / other}
    tell("By module", *rows)
    return []


def _write_photos(folder: pathlib.Path, count: int) -> None:
    """Writes smooth noise as JPEGs of 500x375 px in ten classes; an eighth is for validation."""
    from PIL import Image

    def write(i: int) -> None:
        noise = np.random.default_rng(i).integers(0, 256, (60, 80, 3)).astype(np.uint8)
        photo = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
        path = folder / ("train" if i // 10 % 8 else "val") / f"class {i % 10}"
        path.mkdir(parents=True, exist_ok=True)
        photo.save(path / f"{i:05d}.jpg", quality=92)

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(write, range(count)))


def stores(sizes: Any, tell: Callable, scratch: pathlib.Path) -> list[str]:
    """Trains briefly from a store of JPEGs and a store of pixels: does the input keep up?"""
    _write_photos(scratch / "photos", sizes.photos)
    epochs = sizes.steps * sizes.batch / (sizes.photos * 7 / 8)
    knobs = {"data.source": "store", "data.eval_split": "val", "model.classes": 10,
             "optim.batch_size": sizes.batch, "optim.epochs": epochs, "optim.warmup_epochs": 0.0,
             "optim.learning_rate": 1e-3, "run.eval_batch_size": sizes.batch,
             "run.eval_every_epochs": 1e3, "run.checkpoint_every_epochs": 1e3,
             "run.log_every_steps": sizes.steps // 4}  # fmt: skip
    overrides = [f"--config.{knob}={value}" for knob, value in knobs.items()]
    for kind in ("jpeg", "rgb"):
        store = scratch / kind
        made = (f"--source={scratch / 'photos'}", f"--output={store}", "--short_side=256")
        _launch("prepare", *made, f"--format={kind}")
        start, data = time.monotonic(), f"--config.data.path={store}"
        workdir = f"--workdir={scratch / 'run'}{kind}"
        found = _launch("train", *_base(sizes), *overrides, data, workdir)
        row = {"store": kind, "batch": sizes.batch, "steps": found["steps"]}
        row |= {"images/s": found["images_per_second"], "s in all": time.monotonic() - start}
        row |= {"waiting %": 100 * found["waiting_for_data"]}
        tell("Runs, and the part of their time that was spent waiting for data", row)
    return []


def demo(sizes: Any, tell: Callable, scratch: pathlib.Path) -> list[str]:
    """Trains as `make demo` does."""
    start = time.monotonic()
    workdir = f"--workdir={scratch / 'digits'}"
    found = _launch("train", "--config=experiments/digits.py", workdir, *sizes.demo)
    row = {"top-1 %": 100 - found["top1_error"], "images": found["count"], "steps": found["steps"]}
    row |= {"images/s": found["images_per_second"], "s in all": time.monotonic() - start}
    tell("The run of make demo", row)
    return []
