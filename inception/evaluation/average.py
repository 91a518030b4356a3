"""Averages weights: of the last checkpoints of a run, or of runs from the same initial weights."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from inception import UserError, pixels
from inception.data import paths, pipeline, progress, whole
from inception.evaluation import results
from inception.evaluation.evaluate import load_alike
from inception.evaluation.evaluator import Evaluator
from inception.evaluation.networks import eval_batch_size
from inception.model import FREE_KNOBS, MOMENTUM, GoogLeNet
from inception.runtime import checkpoint, compiling, sharding, weights
from inception.runtime.weights import Trained
from inception.step import first_state

STATISTICS_IMAGES = 10_000  # at most so many for BatchNorm's statistics


def last_steps(workdir: str, config: ConfigDict, count: int) -> list[int]:
    """The last `count` steps with a checkpoint; UserError if the run kept fewer."""
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    steps = checkpoints.steps()
    checkpoints.close()
    # The best one is kept too: it may be older than others that are gone.
    there = min(len(steps), config.run.keep_checkpoints)
    if count > there:
        remedy = f"give at most `last={there}`" if there > 1 else "an average needs two"
        raise UserError(
            f"`last`={count}: of {workdir} the last {there} checkpoints are kept, as many as "
            f"`run.keep_checkpoints` said: {remedy}"
        )
    return steps[-count:]


def check_alike(workdirs: Sequence[str], configs: Sequence[ConfigDict]) -> None:
    """Raises UserError for networks or inputs whose weights have no common meaning."""
    first = configs[0]
    for workdir, config in zip(workdirs, configs, strict=True):
        knobs = [f"model.{knob}" for knob in config.model if knob not in FREE_KNOBS]
        for knob in (*knobs, "data.normalization"):
            group, name = knob.split(".")
            value, own = first[group][name], config[group][name]
            if value != own:
                raise UserError(
                    f"`{knob}` is {value} in {workdirs[0]} and {own} in {workdir}: weights of "
                    "different networks have no average; leave one out"
                )


def without_heads(variables: Any) -> Any:
    """The variables that evaluation reads."""
    return {
        kind: {name: arrays for name, arrays in modules.items() if not name.startswith("head_")}
        for kind, modules in variables.items()
    }


def mean(networks: Sequence[Any]) -> Any:
    """The mean of each array."""
    return jax.tree.map(
        lambda *arrays: np.mean(arrays, 0, np.float64).astype(arrays[0].dtype), *networks
    )


def statistics(config: ConfigDict, variables: Any, mesh: Any) -> Any:
    """BatchNorm's statistics with the parameters of `variables`: means over training batches.

    Args:
        config: describes the network and the data; colours are not distorted.

    Returns:
        batch_stats, float32.
    """
    config = config.copy_and_resolve_references()
    source = pipeline.open_split(config, config.data.train_split)
    size = eval_batch_size(config.run.eval_batch_size, len(source), mesh)
    config.optim.batch_size, config.data.repeats, config.train.sizes = size, 1, (0,)
    steps = max(1, min(len(source), STATISTICS_IMAGES) // size)
    # A frozen module would use statistics, not compute them.
    model = GoogLeNet(**{**config.model, "frozen_through": ""})

    def of_batch(variables: Any, batch: dict[str, jax.Array]) -> Any:
        images = pixels.normalize(batch["image"], method=config.data.normalization)
        rngs = {"dropout": jax.random.key(0)}  # drops features after the last statistics
        _, moved = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        # From zeros, one step moves the running statistics by this share of the batch's.
        return jax.tree.map(lambda x: x / (1 - MOMENTUM), moved["batch_stats"])

    step = compiling.CompiledStep(of_batch, mesh, training=False)
    batches = pipeline.training_batches(config, source, start_step=0, total_steps=steps)
    total = jax.tree.map(np.zeros_like, variables["batch_stats"])
    state = sharding.replicate({"params": variables["params"], "batch_stats": total}, mesh)
    bar = progress.bar(batches, total=steps, desc="statistics", unit="batch", leave=False)
    for batch, _ in bar:
        found = jax.device_get(step(state, sharding.shard_batch(batch, mesh)))
        total = jax.tree.map(np.add, total, found)
    return jax.tree.map(lambda x: x / np.float32(steps), total)


def load(
    configs: Sequence[ConfigDict], workdirs: Sequence[str], *, last: int
) -> tuple[list[str], list[Trained]]:
    """Names and contents of the checkpoints that `run` averages; see there."""
    if len(workdirs) == 1:
        if last < 2:
            raise UserError("one folder alone: name others too, or give `last`=2 or more")
        steps = last_steps(workdirs[0], configs[0], last)
        networks = [weights.load_network(workdirs[0], configs[0], step=step) for step in steps]
        return [f"step {step}" for step in steps], networks
    if last > 1:
        raise UserError(f"`last`={last} is for one folder: name one, or leave it out")
    check_alike(workdirs, configs)
    if len({config.init_from for config in configs} | {""}) != 2:
        print(
            "WARNING: not all began with the same trained weights (config.init_from): networks "
            "trained from random weights, even the same, rarely have a good average",
            file=sys.stderr,
        )
    return list(workdirs), load_alike(workdirs, configs, what="an average")


def run(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[str],
    *,
    output: str,
    tx: optax.GradientTransformation,
    last: int = 1,
) -> dict[str, Any]:
    """Averages the networks of the folders, evaluates each and the average, and writes `output`.

    With BatchNorm, the average has statistics of its own, computed on training images. It has no
    auxiliary heads.

    Args:
        configs: one for each folder; the first one names the data.
        tx: the optimizer of a run that may go on in `output`.
        last: of one folder, how many of its last checkpoints; of several the newest of each.

    Returns:
        {'table': a `results.row` for each network and the average, 'top1_error', 'top5_error',
        'count': the average's}.

    Raises:
        UserError: as `load_alike` and `check_alike`; too few checkpoints; an `output` that cannot
            be written.
    """
    names, networks = load(configs, workdirs, last=last)
    classes, mesh = networks[0].classes, sharding.make_mesh()
    config = configs[0].copy_and_resolve_references()
    config.model.heads = False
    config.optim.polyak_decay = 0.0
    evaluator = Evaluator(config, mesh, split=config.data.eval_split, classes=classes)
    written = paths.explained(f"`output`={output} cannot be written")
    with written, whole.all_or_nothing(output) as folder:
        members = [without_heads(network.variables) for network in networks]
        variables = mean(members)
        if config.model.norm == "batch":
            variables["batch_stats"] = statistics(config, variables, mesh)
        evaluations = [evaluator(sharding.replicate(v, mesh)) for v in (*members, variables)]
        averaged = config.optim.name == "schedule_free"  # a run that goes on needs it
        state = first_state(variables, tx, averaged=averaged)
        weights.write(folder, json.loads(config.to_json()), classes, state)
    rows = [
        results.row(evaluation, classes=len(classes), name=name)
        for evaluation, name in zip(evaluations, [*names, "average"], strict=True)
    ]
    return {**evaluations[-1].result(), "table": rows}
