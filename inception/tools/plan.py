"""What a run will take, before anything is spent: `launch.py plan`."""

import math
import re
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from inception import train
from inception.data import paths, pipeline, sources
from inception.evaluation.networks import eval_batch_size
from inception.model import GoogLeNet
from inception.reporting import metrics
from inception.runtime import sharding
from inception.tools import bench, estimate, plan_page, profiler, program, topology

LOOKED_AT = 200  # records of a set whose mean size is taken for all
UNKNOWN = (
    "memory_bytes", "argument_bytes", "temporary_bytes", "flops", "moved_bytes", "kernels",
    "cycles", "estimated_seconds", "images_per_second", "hours", "epochs_a_day",
)  # fmt: skip


def plan(
    config: ConfigDict,
    *,
    images: int | None = None,
    images_per_second: float | None = None,
    measure: bool = False,
) -> dict[str, Any]:
    """Counts a run's work, and compiles its step to see what memory that needs.

    Args:
        config: locked.
        images: of the training split, where the set is not here; the evaluation is left out.
        images_per_second: in training, on what the run will have.
        measure: take this machine's, by `bench`.

    Returns:
        {'images', 'eval_images', 'epochs', 'steps', 'evaluations', 'images_seen',
        'images_evaluated', 'flops': of training and evaluations, twice the multiply-adds,
        'bytes_read': about, from the mean record; None where the set is not here, 'memory_bytes':
        of the training step on each of 'devices', 'images_per_second', 'hours': of training and
        evaluations, None without a rate; evaluation is taken to make as many FLOPs a second}.

    Raises:
        UserError: as `train` would, before its first step.
    """
    counts = _counts(config, images)
    seen = {"train": counts["images_seen"], "eval": counts["images_evaluated"]}
    model, mesh = GoogLeNet(**config.model), sharding.make_mesh()
    flops = {
        name: 2 * sum(profiler.macs(model, config.input_px, train=name == "train").values())
        for name in seen
    }
    if measure:
        measured = bench.run(config, what="train")
        memory_bytes, images_per_second = measured["memory_bytes"], measured["images_per_second"]
    else:
        memory_bytes = bench.memory_bytes(bench.compile_step(config, mesh, training=True)[0])
    hours = None
    if images_per_second:
        as_trained = flops["eval"] / flops["train"]  # an evaluated image in images of training
        hours = (seen["train"] + as_trained * seen["eval"]) / images_per_second / 3600
    return counts | {
        "flops": sum(flops[name] * seen[name] for name in seen),
        "memory_bytes": memory_bytes,
        "devices": mesh.devices.size,
        "images_per_second": images_per_second,
        "hours": hours,
    }


def plan_for(
    config: ConfigDict,
    name: str,
    *,
    what: str = "train",
    images: int | None = None,
    hlo: str = "",
    output: str = "",
) -> dict[str, Any]:
    """Compiles the step that `train` or `eval` would run for devices that are not here.

    Args:
        config: locked; the batch is config.optim's, in evaluation config.run's.
        name: of the devices, for `topology.described`.
        what: 'train' or 'eval'.
        images: of the training split, for the hours and epochs.
        hlo: a file for the optimised program's text.
        output: a page, .html.

    Returns:
        {'topology', 'what', 'devices', 'batch_size', 'batch_per_device', 'device_memory_bytes',
        'argument_bytes', 'temporary_bytes', 'memory_bytes': the most at once, 'fits', 'flops',
        'moved_bytes', 'kernels', 'cycles', of a step on one device, 'collectives':
        `program.collectives`, 'estimated_seconds', 'images_per_second': on all devices, 'model':
        of the time, 'hours' of training, without the evaluations, 'epochs_a_day', 'layers' and
        'operations': `estimate.estimate`, 'too_large': [a line about a program that does not fit]}.
        None for what is not known.

    Raises:
        UserError: no such devices, no compiler for them, a batch that they do not divide.
    """
    devices = topology.described(name)
    mesh = sharding.make_mesh(devices.devices)
    config = config.copy_and_resolve_references()
    if what == "eval":
        most = config.run.eval_batch_size
        config.optim.batch_size = eval_batch_size(most, most, mesh)
    result = {
        "topology": name,
        "what": what,
        "devices": mesh.devices.size,
        "batch_size": config.optim.batch_size,
        "batch_per_device": config.optim.batch_size // mesh.devices.size,
        "device_memory_bytes": devices.chip.memory_bytes,
    }
    try:
        compiled, _ = bench.compile_step(config, mesh, training=what == "train")
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        result |= dict.fromkeys(UNKNOWN) | {"fits": False, "too_large": [_over(str(error))]}
        return result | {"collectives": [], "model": "", "layers": [], "operations": []}
    text = compiled.as_text()
    if hlo:
        paths.write_output(hlo, text, flag="hlo")
    parsed = program.parse(text)
    found = estimate.estimate(parsed, devices)
    rate = result["batch_size"] / found["seconds"]
    seen = images * config.optim.epochs if images and what == "train" else None
    result |= _found(compiled, parsed, found, devices.chip.memory_bytes) | {
        "images_per_second": rate,
        "hours": seen and seen / rate / 3600,
        "epochs_a_day": rate * 86400 / images if images and seen else None,
        "model": found["model"],
        "collectives": program.collectives(parsed),
        "layers": found["layers"],
        "operations": found["operations"],
    }
    if output:
        paths.write_output(output, plan_page.page(result))
    return result


def _found(
    compiled: Any, parsed: program.Program, found: dict[str, Any], most: int
) -> dict[str, Any]:
    """What a compiled program takes of a device, as `plan_for` returns it."""
    memory, peak = compiled.memory_analysis(), bench.memory_bytes(compiled)
    # TPUs pad arrays and keep some of them on the chip: their compiler counts that itself, a loop's
    # body once.
    counted = (compiled.cost_analysis() or {}).get("bytes accessed")
    once = sum(i.moved_bytes for i, _ in program.executed(parsed))
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "memory_bytes": peak,
        "fits": peak <= most,
        "too_large": [_too_large(peak, most)] if peak > most else [],
        "flops": found["flops"],
        "moved_bytes": round(counted * found["bytes"] / once) if counted else found["bytes"],
        "kernels": found["kernels"],
        "cycles": found["cycles"],
        "estimated_seconds": found["seconds"],
    }


def _over(error: str) -> str:
    """The line about a program that the compiler refused, from its message in GiB."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    sizes = [float(n) * units[unit] for n, unit in re.findall(r"\b([\d.]+)([KMGT])\b", error)]
    if len(sizes) < 2:
        return error.splitlines()[0]
    return _too_large(sizes[0], sizes[1])


def _too_large(needed: float, most: float) -> str:
    gigabytes = f"{needed / 1e9:.1f} GB, {(needed - most) / 1e9:.1f} GB more than a device has"
    return f"the program needs {gigabytes}: a smaller batch a device fits, or `accumulate`, `remat`"


def _counts(config: ConfigDict, images: int | None) -> dict[str, Any]:
    """The images, steps and bytes of a run, as `plan` returns them."""
    splits = (config.data.train_split, config.data.eval_split)
    sets = [] if images else [pipeline.open_split(config, split) for split in splits]
    train_images, eval_images = [len(found) for found in sets] or [images or 0, 0]
    per_epoch, total = train.count_steps(config, train_images)
    steps = metrics.Steps(0, total, per_epoch, config.optim.batch_size)
    evaluations = math.ceil(total / steps.period(config.run.eval_every_epochs))
    seen, evaluated = total * steps.batch_size, evaluations * eval_images
    read = [n * _mean_bytes(found) for n, found in zip((seen, evaluated), sets, strict=False)]
    return {
        "images": train_images,
        "eval_images": eval_images,
        "epochs": config.optim.epochs,
        "steps": total,
        "evaluations": evaluations,
        "images_seen": seen,
        "images_evaluated": evaluated,
        "bytes_read": round(sum(read)) if sets else None,
    }


def _mean_bytes(source: sources.Source) -> float:
    """Of a record as it lies in the set, from a few spread over it."""
    indices = np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).astype(int)
    records = (source[int(index)][0] for index in indices)
    return float(np.mean([r.nbytes if isinstance(r, np.ndarray) else len(r) for r in records]))
