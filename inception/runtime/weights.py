"""Loads weights that `train` or `convert` wrote, for inference or for the start of another run."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from inception import UserError
from inception.model import FREE_KNOBS, TRUNK, GoogLeNet
from inception.runtime import checkpoint, processes
from inception.runtime.workdir import read_config, write_config
from inception.step import TrainState

Path = tuple[str, ...]  # collection, module, ..., array


class Trained(NamedTuple):
    """The contents of a folder that `train` or `convert` wrote."""

    config: dict[str, Any]  # as `read_config` returns it
    classes: tuple[str, ...]  # for labels 0, 1, ...: WordNet ids, or a data set's folders
    variables: Any  # {'params', 'batch_stats'}, NumPy arrays; the average if one exists
    step: int  # of the checkpoint


def load_trained(workdir: str, *, best: bool = False, step: int | None = None) -> Trained:
    """Loads a folder's newest intact checkpoint, or its best one, or that of a step, for inference.

    Raises:
        UserError: no intact checkpoint, config or classes; processes that read different steps.
    """
    config = read_config(workdir)
    classes = checkpoint.read_classes(workdir)
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    if not checkpoints.steps():
        raise UserError(f"{workdir} has no checkpoint: train first")
    state: Any = checkpoints.restore(None, step=checkpoints.best_step() if best else step)
    checkpoints.close()
    if len(set(processes.gather_text(f"{state['step']}"))) > 1:
        raise UserError(
            f"{workdir}: the processes read checkpoints of different steps: a run is writing "
            "to it, or one process cannot read the newest. Try again"
        )
    variables = state["average"] or {key: state[key] for key in ("params", "batch_stats")}
    return Trained(config, classes, variables, int(state["step"]))


def load_network(
    workdir: str,
    config: Mapping[str, Any] | None = None,
    *,
    best: bool = False,
    step: int | None = None,
) -> Trained:
    """As `load_trained`, and checks that the weights fit the network that config.model describes.

    Args:
        config: replaces the folder's own.

    Raises:
        UserError: also if the weights or classes.txt belong to another network.
    """
    trained = load_trained(workdir, best=best, step=step)
    knobs, px = ((config or trained.config)[key] for key in ("model", "input_px"))
    try:
        model = GoogLeNet(**knobs)
    except TypeError as error:  # an unknown knob
        raise UserError(f"{workdir}/config.json: {error}") from error
    images = jax.ShapeDtypeStruct((1, px, px, 3), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    network, weights = (
        {p: a.shape for p, a in traverse_util.flatten_dict(tree).items() if "head_" not in p[1]}
        for tree in (shapes, trained.variables)
    )
    if unfit := network.items() - weights.items() or weights.items() - network.items():
        first, _ = min(unfit, key=lambda array: (array[0][0] != "params", array))
        found, wanted = (list(t[first]) if first in t else "none" for t in (weights, network))
        raise UserError(
            f"{workdir}: {'/'.join(first)} has shape {found} in its weights, and {wanted} in the "
            "network of `model`: undo what was changed in its config.json, or by flags"
        )
    if len(trained.classes) != model.classes:
        raise UserError(
            f"{workdir}/classes.txt names {len(trained.classes)} classes, and the network has "
            f"{model.classes}: restore it"
        )
    return trained


def write(
    folder: pathlib.Path, config: dict[str, Any], classes: tuple[str, ...], state: TrainState
) -> None:
    """Writes a run's config, classes and a checkpoint at step 0 into `folder`."""
    write_config(config, str(folder))
    checkpoint.write_classes(str(folder), classes)
    checkpoints = checkpoint.Checkpoints(str(folder))
    checkpoints.save(0, jax.device_get(state))
    checkpoints.close()


def _check_alike(init_from: str, trained: dict[str, Any], model: Any, normalization: str) -> None:
    """Raises UserError if weights of the config `trained` would compute something else here."""
    free = FREE_KNOBS | {"classes", "parent", "name"}
    knobs = {f.name: f.default for f in dataclasses.fields(model) if f.name not in free}
    theirs = {name: trained["model"].get(name, value) for name, value in knobs.items()}
    remedies = [f"`model.{k}={v}`" for k, v in theirs.items() if v != getattr(model, k)]
    if trained["data"]["normalization"] != normalization:
        remedies.append(f"`normalization={trained['data']['normalization']}`")
    if remedies:
        raise UserError(f"`init_from`={init_from} was trained otherwise: give {' '.join(remedies)}")


def load_to_start(init_from: str, model: GoogLeNet, normalization: str) -> Trained:
    """Loads the newest checkpoint in `init_from`, from which a run of `model` will start.

    Raises:
        UserError: no intact checkpoint, or one with another trunk or normalisation.
    """
    try:
        trained = load_trained(init_from)
    except UserError as error:
        raise UserError(f"`init_from`: {error}") from error
    _check_alike(init_from, trained.config, model, normalization)
    return trained


def start_from(init_from: str, trained: Trained, fresh: Any, classes: Sequence[str]) -> Any:
    """Returns `fresh`, with every array of `trained` that fits.

    The checkpoint must give the whole trunk. It gives a classifier if its classes are `classes`,
    and other layers if their shapes match (a head's `fc` depends on the input's size). One line on
    stderr names the layers that start fresh.

    Args:
        init_from: the folder of `trained`, for messages.
        fresh: {'params', 'batch_stats'} of the run's network, NumPy arrays.

    Raises:
        UserError: a trunk that does not fit.
    """
    theirs = traverse_util.flatten_dict(trained.variables)
    flat = traverse_util.flatten_dict(fresh)
    unfit = {p for p, a in flat.items() if p not in theirs or theirs[p].shape != a.shape}
    layers: dict[Path, list[Path]] = {}  # collection/LAYER/array
    for path in flat:
        layers.setdefault(path[1:-1], []).append(path)
    taken: dict[Path, Any] = {}
    missing = []
    for layer, arrays in layers.items():
        if unfit.isdisjoint(arrays) and (
            "classifier" not in layer or trained.classes == tuple(classes)
        ):
            taken |= {p: theirs[p] for p in arrays}
        elif layer[0] in TRUNK:
            raise UserError(
                f"`init_from`={init_from}: its {'/'.join(layer)} is not what its config.json "
                "says: take another checkpoint"
            )
        else:
            missing.append(layer)
    modules = {path[1] for path in taken}  # with at least one array taken
    names = sorted({"/".join(x) if x[0] in modules else x[0] for x in missing}) or ["nothing"]
    print(f"fresh: {', '.join(names)}; {len(taken)} arrays from {init_from}", file=sys.stderr)
    return {**fresh, **traverse_util.unflatten_dict(flat | taken)}  # `flat` lacks empty collections
