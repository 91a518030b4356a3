"""Scales: what each branch sees of a picture, and its part in the module's output.

Paper, section 4: "as features of higher abstraction are captured by higher layers, their spatial
concentration is expected to decrease suggesting that the ratio of 3x3 and 5x5 convolutions should
increase as we move to higher layers."
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.extend.core import Literal

from inception import kernels
from inception.evaluation.features import activations
from inception.inspection import passes
from inception.model import TABLE_1, GoogLeNet, Inception

BRANCHES = ("1x1", "3x3", "5x5", "pool_proj")  # of naive modules the last one is the pool itself


class Field(NamedTuple):
    """What a layer's positions see of a picture, in pixels, the same along height and width.

    Position i sees pixels i * stride - padding to i * stride - padding + size - 1.
    """

    size: int
    stride: int
    padding: int

    def through(self, window: int, stride: int, padding: int) -> "Field":
        """The field after a convolution or a pool, with `padding` before the first position."""
        return Field(
            self.size + (window - 1) * self.stride,
            self.stride * stride,
            self.padding + padding * self.stride,
        )

    def union(self, other: "Field") -> "Field":
        """The smallest field that contains both, which must have the same stride."""
        if self.stride != other.stride:
            raise ValueError(f"fields of strides {self.stride} and {other.stride} have no union")
        padding = max(self.padding, other.padding)
        after = max(field.size - field.padding for field in (self, other))
        return Field(padding + after, self.stride, padding)


def receptive_fields(model: GoogLeNet, *, input_px: int = 224) -> dict[str, Field]:
    """The field of each layer in the order of computation, by `activations`' names.

    Follows windows, strides and paddings through the traced program, so it holds for any fields of
    GoogLeNet. Layers without positions, after 5b, are left out.

    Args:
        input_px: SAME padding before the first position depends on it.
    """
    names: list[str] = []

    def layers(variables: Any, images: jax.Array) -> list[jax.Array]:
        found = activations(model, variables, images)
        names.extend(found)
        return list(found.values())

    images = jax.ShapeDtypeStruct((1, input_px, input_px, 3), "float32")
    with kernels.on("any"):  # windows are primitives there, not sums of shifted views
        init = functools.partial(model.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), images)
        program = jax.make_jaxpr(layers)(variables, images).jaxpr
    of_images = [None] * (len(program.invars) - 1) + [Field(1, 1, 0)]
    fields = zip(names, _of_program(program, of_images), strict=True)
    return {name: field for name, field in fields if field}


def _of_program(program: Any, read: Sequence[Field | None]) -> list[Field | None]:
    """The fields of a program's results from those of its arguments; None: no positions."""
    known = dict(zip(program.invars, read, strict=True))
    for step in program.eqns:
        own = [None if isinstance(x, Literal) else known.get(x) for x in step.invars]
        inner = step.params.get("jaxpr") or step.params.get("call_jaxpr")
        found = _of_program(inner.jaxpr, own) if inner else [_of_step(step, own)]
        known.update(zip(step.outvars, found, strict=True))
    return [known.get(x) for x in program.outvars]


def _of_step(step: Any, read: Sequence[Field | None]) -> Field | None:
    """The field of a primitive's result."""
    fields, name, params = [field for field in read if field], step.primitive.name, step.params
    if not fields:
        return None
    if name == "conv_general_dilated":
        window = step.invars[1].aval.shape[params["dimension_numbers"].rhs_spec[2]]
        return fields[0].through(window, params["window_strides"][0], params["padding"][0][0])
    if name.startswith("reduce_window"):
        window, stride = params["window_dimensions"][1], params["window_strides"][1]
        return fields[0].through(window, stride, params["padding"][1][0])
    grids = {x.aval.shape[1:3] for x, field in zip(step.invars, read, strict=True) if field} | {
        step.outvars[0].aval.shape[1:3]
    }
    # What keeps the grid computes each position alone: ReLU, LRN, BatchNorm, concatenation.
    return functools.reduce(Field.union, fields) if len(grids) == 1 else None


def energy(model: GoogLeNet, variables: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Each branch's share of its module's output energy, the sum of squares after ReLU.

    Args:
        images: normalised, float32 [n, px, px, 3].

    Returns:
        {'energy': shares, float64 [modules, branches], in the order of TABLE_1 and BRANCHES;
        'filters': the branch's share of the module's channels, in the same form}
    """
    sums = {row: np.zeros(()) for row in TABLE_1}
    for rows in passes.batches(images, "energy"):
        found = jax.device_get(_squares(variables, images[rows], model=model))
        sums = {row: sums[row] + found[row].astype(float) for row in sums}
    parts = [np.split(sums[row], ends(variables, row)) for row in sums]
    shares = {
        "energy": [[part.sum() for part in of_row] for of_row in parts],
        "filters": [[float(part.size) for part in of_row] for of_row in parts],
    }
    return {
        key: np.asarray(values) / np.sum(values, axis=1, keepdims=True)
        for key, values in shares.items()
    }


@functools.partial(jax.jit, static_argnames="model")
def _squares(variables: Any, images: jax.Array, *, model: GoogLeNet) -> dict[str, jax.Array]:
    layers = activations(model, variables, images)
    return {row: (layers[row].astype("float32") ** 2).sum((0, 1, 2)) for row in TABLE_1}


def ends(variables: Any, row: str) -> np.ndarray:
    """Where 3x3, 5x5 and the pool begin among the channels of a module's output."""
    convs = (variables["params"][row][branch]["Conv_0"] for branch in BRANCHES[:-1])
    return np.cumsum([conv["kernel"].shape[-1] for conv in convs])


def _pooled(variables: Any, row: str) -> int:
    """The channels of the pool's branch; without a projection, those of the input."""
    module = variables["params"][row]
    if BRANCHES[-1] in module:
        return module[BRANCHES[-1]]["Conv_0"]["kernel"].shape[-1]
    return module["1x1"]["Conv_0"]["kernel"].shape[-2]


def ablations(
    model: GoogLeNet, variables: Any, images: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """What silencing a branch costs: its channels of the module's output are 0, nothing else.

    The same arguments return the same bits on the same machine.

    Args:
        images: normalised, float32 [n, px, px, 3].
        labels: int [n].

    Returns:
        {'top1': accuracy lost, 'cross_entropy': gained, in nats, float64 [modules, branches], in
        the order of TABLE_1 and BRANCHES; 'top1_error', 'cross_entropy_error': standard errors of
        these means over the images; 'whole_top1', 'whole_cross_entropy': of the whole network, []}

    Raises:
        ValueError: labels that do not fit the images or the network.
    """
    passes.check_labels(model, images, labels)
    grades = [
        _grades(model, variables, images[rows], labels[rows])
        for rows in passes.batches(images, "ablations")
    ]  # [batches, cases, 2, b]
    right, losses = np.concatenate(grades, axis=-1).astype(float).transpose(1, 0, 2)
    shape = (len(TABLE_1), len(BRANCHES))
    costs = {}
    for key, values, sign in (("top1", right, -1), ("cross_entropy", losses, 1)):
        costs[f"whole_{key}"] = values[0].mean()
        change = sign * (values[1:] - values[0])  # [cases, n]
        costs[key] = change.mean(-1).reshape(shape)
        costs[f"{key}_error"] = (change.std(-1) / np.sqrt(len(labels))).reshape(shape)
    return costs


def _grades(model: GoogLeNet, variables: Any, images: Any, labels: Any) -> list[Any]:
    """`graded` of the whole network, then of each case, by module and branch.

    The modules between two pools share one program and what precedes them.
    """
    stages: dict[str, dict[str, np.ndarray]] = {}
    for row in TABLE_1:
        channels = ends(variables, row)[-1] + _pooled(variables, row)
        stages.setdefault(row[0], {})[row] = np.ones((1, 1, 1, channels), np.float32)
    read = _inputs(variables, images, model=model, rows=tuple(min(s) for s in stages.values()))
    grades: list[Any] = []
    for keep in stages.values():
        first = min(keep)
        cases = [keep] if not grades else []
        for row, ones in keep.items():
            for part in np.split(np.arange(ones.size), ends(variables, row)):
                silenced = ones.copy()
                silenced[..., part] = 0
                cases.append(keep | {row: silenced})
        for case in cases:
            grade = _graded(variables, images, read[first], labels, case, model=model, first=first)
            grades.append(jax.device_get(grade))  # awaits it: no two cases share the memory
    return grades


@functools.partial(jax.jit, static_argnames=("model", "rows"))
def _inputs(
    variables: Any, images: jax.Array, *, model: GoogLeNet, rows: tuple[str, ...]
) -> dict[str, jax.Array]:
    """What modules read, [b, h, w, c]."""
    read: dict[str, jax.Array] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.name in rows:
            read[context.module.name] = args[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        model.apply(variables, images, train=False)
    return read


@functools.partial(jax.jit, static_argnames=("model", "first"))
def _graded(
    variables: Any,
    images: jax.Array,
    read: jax.Array,
    labels: jax.Array,
    keep: dict[str, jax.Array],
    *,
    model: GoogLeNet,
    first: str,
) -> tuple[jax.Array, jax.Array]:
    """`graded` of a network whose module `first` reads `read`, with outputs times `keep`.

    The compiler drops what precedes `first`: only the images' shape matters.
    """

    def replace(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        name = context.module.name
        if not isinstance(context.module, Inception):
            return call(*args, **kwargs)
        if name == first:
            args = (read, *args[1:])
        y = call(*args, **kwargs)
        return y * keep[name].astype(y.dtype) if name in keep else y

    with nn.intercept_methods(replace):
        logits: Any = model.apply(variables, images, train=False)
    return passes.graded(logits["main"], labels)
