"""Estimates what a run costs before it starts: `launch.py plan`."""

import math
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from inception import UserError, train
from inception.config import folders, run_config, training_sizes
from inception.data import pipeline, sources
from inception.model import GoogLeNet
from inception.reporting import metrics
from inception.runtime import sharding
from inception.tools import bench, profiler

LOOKED_AT = 200  # records of a set, whose mean size stands for all


def plan(
    config: ConfigDict,
    *,
    images: int | None = None,
    images_per_second: float | None = None,
    measure: bool = False,
) -> dict[str, Any]:
    """Counts a run's work, and compiles its step to find how much memory it needs.

    Args:
        config: locked.
        images: the number of training images, without the set; leaves out the evaluation.
        images_per_second: the rate of training on the machine that will run it.
        measure: take this machine's rate, measured by `bench`.

    Returns:
        {'images', 'eval_images', 'epochs', 'steps', 'evaluations', 'images_seen',
        'images_evaluated', 'flops': of training and evaluations, twice the multiply-adds,
        'bytes_read': an estimate from the mean record, None without the set, 'memory_bytes': of
        the training step on each of 'devices', 'images_per_second', 'hours': of training and
        evaluations, None without a rate; assumes as many FLOPs a second in evaluation}.

    Raises:
        UserError: as `train` would, before its first step.
    """
    counts = _counts(config, images)
    seen = {"train": counts["images_seen"], "eval": counts["images_evaluated"]}
    flops, mesh = _flops(config), sharding.make_mesh()
    if measure:
        measured = bench.run(config, what="train")
        memory_bytes, images_per_second = measured["memory_bytes"], measured["images_per_second"]
    else:
        largest = max(training_sizes(config))
        compiled, _ = bench.compile_step(config, mesh, training=True, px=largest)
        memory_bytes = bench.memory_bytes(compiled)
    hours = None
    if images_per_second:
        as_trained = flops["eval"] / flops["train"]  # an evaluated image's cost in trained ones
        hours = (seen["train"] + as_trained * seen["eval"]) / images_per_second / 3600
    return counts | {
        "flops": round(sum(flops[name] * seen[name] for name in seen)),
        "memory_bytes": memory_bytes,
        "devices": mesh.devices.size,
        "images_per_second": images_per_second,
        "hours": hours,
    }


def _flops(config: ConfigDict) -> dict[str, float]:
    """Of an image in training, the mean of its sizes, with the teachers', and in evaluation."""

    def of(network: ConfigDict, px: int, *, train: bool) -> int:
        return 2 * sum(profiler.macs(GoogLeNet(**network.model), px, train=train).values())

    try:
        teachers = [run_config(folder, [], rules=()) for folder in folders(config.distill.teacher)]
    except UserError as error:
        raise UserError(f"`distill.teacher`: {error}") from error
    each = [
        of(config, px, train=True) + sum(of(t, px, train=False) for t in teachers)
        for px in training_sizes(config)
    ]
    return {"train": float(np.mean(each)), "eval": of(config, config.input_px, train=False)}


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
    """The mean size of a stored record, from a few spread over the set."""
    indices = np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).astype(int)
    records = (source[int(index)][0] for index in indices)
    return float(np.mean([r.nbytes if isinstance(r, np.ndarray) else len(r) for r in records]))
