"""What a new run takes from a checkpoint, and what of it starts fresh."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from flax import traverse_util

from inception import UserError
from inception.model import FREE_KNOBS, TRUNK, GoogLeNet
from inception.runtime import checkpoint

Path = tuple[str, ...]  # collection, module, ..., array


def _check_alike(
    init_from: str, trained: dict[str, Any], *, model: GoogLeNet, normalization: str
) -> None:
    """Raises UserError where weights of `trained` would compute something else here."""
    remedies = []
    for field in dataclasses.fields(model):
        if field.name in FREE_KNOBS | {"classes", "parent", "name"}:
            continue
        value = trained["model"].get(field.name, field.default)  # an older config lacks the knob
        if value != getattr(model, field.name):
            remedies.append(f"`model.{field.name}={value}`")
    if trained["data"]["normalization"] != normalization:
        remedies.append(f"`normalization={trained['data']['normalization']}`")
    if remedies:
        raise UserError(f"`init_from`={init_from} was trained otherwise: give {' '.join(remedies)}")


def misfits(found: dict[Path, Any], wanted: dict[Path, Any]) -> list[Path]:
    """Of flat trees of arrays the paths in `wanted` that `found` lacks, or has in another shape."""
    return [p for p, array in wanted.items() if p not in found or found[p].shape != array.shape]


def start_from(
    init_from: str,
    fresh: Any,
    *,
    model: GoogLeNet,
    normalization: str,
    classes: Sequence[str],
) -> Any:
    """`fresh` with the arrays of the newest checkpoint in `init_from` that fit it.

    The trunk is taken whole; a classifier if the checkpoint's classes.txt is `classes`; other
    layers if the checkpoint has them in the same shape (a head's `fc` depends on the input's size).
    One line on stderr names the layers that start fresh.

    Args:
        fresh: {'params', 'batch_stats'} of `model`, numpy arrays.

    Raises:
        UserError: no whole checkpoint; one of another trunk or with another normalisation.
    """
    try:
        trained = checkpoint.load(init_from)
    except UserError as error:
        raise UserError(f"`init_from`: {error}") from error
    _check_alike(init_from, trained.config, model=model, normalization=normalization)

    theirs = traverse_util.flatten_dict(trained.variables)
    flat = traverse_util.flatten_dict(fresh)
    unfit = set(misfits(theirs, flat))
    layers: dict[Path, list[Path]] = {}  # collection/LAYER/array
    for path in flat:
        layers.setdefault(path[1:-1], []).append(path)
    taken: set[str] = set()  # modules
    missing = []
    for layer, paths in layers.items():
        if unfit.isdisjoint(paths) and (
            "classifier" not in layer or trained.classes == tuple(classes)
        ):
            flat |= {p: theirs[p] for p in paths}
            taken.add(layer[0])
        elif layer[0] in TRUNK:
            raise UserError(
                f"`init_from`={init_from}: its {'/'.join(layer)} is not what its config.json "
                "says: take another checkpoint"
            )
        else:
            missing.append(layer)
    untouched = sum(len(layers[layer]) for layer in missing)
    names = [layer[0] if layer[0] not in taken else "/".join(layer) for layer in missing]
    print(
        f"fresh: {', '.join(sorted(set(names))) or 'nothing'}; {len(flat) - untouched} arrays from "
        f"{init_from}",
        file=sys.stderr,
    )
    return {**fresh, **traverse_util.unflatten_dict(flat)}  # without BatchNorm no statistics
