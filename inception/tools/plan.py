"""What a run will take, before anything is spent: `launch.py plan`."""

import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from inception import UserError, train
from inception.data import pipeline, sources
from inception.model import GoogLeNet
from inception.runtime import sharding
from inception.tools import bench, profiler

LOOKED_AT = 200  # records of a set whose mean size is taken for all


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
    mesh = sharding.make_mesh()
    batch_size = config.optim.batch_size
    sharding.check_batch_size(batch_size, config.optim.accumulate, mesh)
    splits: dict[str, sources.Source | None] = {"train": None, "eval": None}
    if images is None:
        splits = {
            "train": pipeline.open_split(config, config.data.train_split),
            "eval": pipeline.open_split(config, config.data.eval_split),
        }
    counts = {name: len(split) if split else 0 for name, split in splits.items()}
    counts["train"] = images or counts["train"]
    steps = round(config.optim.epochs * counts["train"] / batch_size)
    if steps < 1:
        raise UserError(f"config.optim.epochs={config.optim.epochs} makes no step of {batch_size}")
    every = max(1, round(config.run.eval_every_epochs * counts["train"] / batch_size))
    evaluations = math.ceil(steps / every)
    seen = {"train": steps * batch_size, "eval": evaluations * counts["eval"]}
    model = GoogLeNet(**config.model)
    flops = {
        name: 2 * sum(profiler.macs(model, config.input_px, train=name == "train").values())
        for name in seen
    }
    if measure:
        measured = bench.run(config, what="train")
        memory_bytes, images_per_second = measured["memory_bytes"], measured["images_per_second"]
    else:
        memory_bytes = _step_memory(config, mesh, steps)
    # An evaluated image in images of training.
    share = flops["eval"] / flops["train"]
    hours = None
    if images_per_second:
        hours = (seen["train"] + share * seen["eval"]) / images_per_second / 3600
    sizes = {name: _mean_bytes(split) for name, split in splits.items() if split}
    return {
        "images": counts["train"],
        "eval_images": counts["eval"],
        "epochs": config.optim.epochs,
        "steps": steps,
        "evaluations": evaluations,
        "images_seen": seen["train"],
        "images_evaluated": seen["eval"],
        "flops": sum(flops[name] * seen[name] for name in seen),
        "bytes_read": round(sum(sizes[name] * seen[name] for name in sizes)) if sizes else None,
        "memory_bytes": memory_bytes,
        "devices": mesh.devices.size,
        "images_per_second": images_per_second,
        "hours": hours,
    }


def to_text(result: dict[str, Any]) -> str:
    """What `plan` returns, for people."""
    read, hours = result["bytes_read"], result["hours"]
    rows = [
        ("images", f"{result['images']:,}, evaluated on {result['eval_images']:,}"),
        ("epochs", f"{result['epochs']:g}, {result['steps']:,} steps"),
        ("images seen", f"{result['images_seen']:,}"),
        ("evaluations", f"{result['evaluations']:,}, {result['images_evaluated']:,} images"),
        ("FLOPs", f"{result['flops']:.2e}"),
        ("read", "the set is not here" if read is None else f"{read / 1e6:,.0f} MB, about"),
        (
            "memory",
            f"{result['memory_bytes'] / 1e6:,.0f} MB a device on {result['devices']} device(s)",
        ),
    ]
    if hours is None:
        rows.append(("hours", "give --images_per_second=N, or --measure"))
    else:
        rows.append(("hours", f"{hours:,.2f} at {result['images_per_second']:,.1f} images/s"))
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _step_memory(config: ConfigDict, mesh: Any, steps: int) -> int:
    """Bytes a device of the training step, compiled for shapes alone."""
    per_epoch = steps / config.optim.epochs
    training = train.build(config, mesh, steps_per_epoch=per_epoch, total_steps=steps)
    state = sharding.replicated_shapes(training.init, mesh)
    shape = (config.optim.batch_size, config.input_px, config.input_px, 3)
    batch = {
        "image": jax.ShapeDtypeStruct(shape, np.uint8),
        "label": jax.ShapeDtypeStruct(shape[:1], np.int32),
    }
    return bench.memory_bytes(training.step.lower(state, batch).compile())


def _mean_bytes(source: sources.Source) -> float:
    """Of a record as it lies in the set, from a few spread over it."""
    places = np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).astype(int)
    records = (source[int(place)][0] for place in places)
    return float(np.mean([r.nbytes if isinstance(r, np.ndarray) else len(r) for r in records]))
