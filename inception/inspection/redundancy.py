"""Redundancy: in how few dimensions a module's input lies, and what narrower reductions cost.

Paper, section 4: "this is based on the success of embeddings: even low dimensional embeddings
might contain a lot of information about a relatively large image patch."
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from inception import UserError
from inception.evaluation.features import activations
from inception.inspection import passes
from inception.model import GoogLeNet, Inception

REDUCTIONS = ("3x3_reduce", "5x5_reduce")
FRACTIONS = (1.0, 1 / 2, 1 / 4, 1 / 8)  # of a reduction's filters


class Moments(NamedTuple):
    """Over all positions of all images: their number, mean [c] and covariance [c, c], float64."""

    positions: int
    mean: np.ndarray
    covariance: np.ndarray

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets; Chan, Golub, LeVeque (1979)."""
        positions = self.positions + other.positions
        delta = other.mean - self.mean
        a, b = self.positions / positions, other.positions / positions
        covariance = a * self.covariance + b * other.covariance + a * b * np.outer(delta, delta)
        return Moments(positions, self.mean + b * delta, covariance)


def moments(model: GoogLeNet, variables: Any, images: np.ndarray) -> dict[str, Moments]:
    """Moments of what each module reads, as '4a', and of its reductions before ReLU.

    The latter, as '4a/3x3_reduce', are after BatchNorm where there is one; naive modules have none.

    Args:
        images: normalised, float32 [n, px, px, 3].
    """
    total: dict[str, Moments] = {}
    for rows in passes.batches(images, "moments"):
        found = jax.device_get(_moments(variables, images[rows], model=model))
        for name, (positions, *others) in found.items():
            own = Moments(int(positions), *(array.astype(float) for array in others))
            total[name] = total[name].merge(own) if name in total else own
    return total


@functools.partial(jax.jit, static_argnames="model")
def _moments(
    variables: Any, images: jax.Array, *, model: GoogLeNet
) -> dict[str, tuple[int, jax.Array, jax.Array]]:
    seen: dict[str, jax.Array] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        if isinstance(context.module, Inception):
            seen[str(context.module.name)] = args[0]
        elif name := _reduction(model, context):
            seen[name] = y
        return y

    with nn.intercept_methods(record):
        model.apply(variables, images, train=False)
    found = {}
    for name, x in seen.items():
        x = x.reshape(-1, x.shape[-1]).astype("float32")
        mean = x.mean(0)
        x = x - mean[None]
        found[name] = (len(x), mean, jnp.matmul(x.T, x, precision="highest") / len(x))
    return found


def _reduction(model: GoogLeNet, context: Any) -> str:
    """'4a/3x3_reduce' in the call whose result is that reduction before ReLU; else ''."""
    *parents, own = context.module.path or ("",)
    last = "BatchNorm_0" if model.norm == "batch" else "Conv_0"
    return "/".join(parents) if own == last and parents[-1] in REDUCTIONS else ""


def effective_rank(covariance: np.ndarray) -> float:
    """exp(-sum p log p), p the eigenvalues of the covariance over their sum: from 1 to c.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality" (2007). 0 if the
    covariance is 0.
    """
    eigenvalues = np.linalg.eigvalsh(covariance).clip(0)
    if not eigenvalues.any():
        return 0.0
    p = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def narrowed(
    model: GoogLeNet,
    variables: Any,
    images: np.ndarray,
    labels: np.ndarray,
    seen: Mapping[str, Moments],
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, np.ndarray]:
    """What it costs to squeeze all 1x1 reductions through a fraction of their filters at once.

    Without training: a reduction's result before ReLU, r numbers at a position, becomes its best
    linear reconstruction from k = fraction * r numbers, by the k principal directions of its
    covariance. This is the SVD of the kernel in the metric of its input's covariance, as in Zhang
    et al., "Accelerating Very Deep Convolutional Networks" (2015), section 3.1: a 1x1 convolution
    with k filters, then one with r. What follows still reads r channels.

    Args:
        images: normalised, float32 [n, px, px, 3].
        labels: int [n].
        seen: `moments` of the network.
        fractions: from 0 to 1; 1 is the network itself; at least one filter stays.

    Returns:
        {'fractions', 'top1', 'cross_entropy': in nats, float64 [fractions]; 'macs': multiply-adds
        per image, int64 [fractions]}

    Raises:
        UserError: naive modules, which have no reductions.
        ValueError: labels that do not fit the images or the network.
    """
    if model.module == "naive":
        raise UserError("`module=naive` has no 1x1 reductions: inspect a `module=reduced` network")
    passes.check_labels(model, images, labels)
    reductions = {name: found for name, found in seen.items() if "/" in name}
    sizes = {name: len(found.mean) for name, found in reductions.items()}
    kept = [{n: max(1, round(f * r)) for n, r in sizes.items()} for f in fractions]
    maps = [{name: _projection(reductions[name], k[name]) for name in k} for k in kept]
    grades = [
        [
            jax.device_get(_graded(variables, images[rows], labels[rows], each, model=model))
            for each in maps
        ]
        for rows in passes.batches(images, "narrower reductions")
    ]
    right, losses = np.concatenate(grades, axis=-1).transpose(1, 0, 2)
    return {
        "fractions": np.asarray(fractions, float),
        "top1": right.astype(float).mean(-1),
        "cross_entropy": losses.astype(float).mean(-1),
        "macs": np.asarray(_macs(model, variables, images.shape[1:], kept)),
    }


def _projection(found: Moments, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(A, a), float32, of y -> y A + a: onto the k principal directions, about the mean."""
    directions = np.linalg.eigh(found.covariance)[1][:, -k:]
    matrix = directions @ directions.T
    offset = found.mean - found.mean @ matrix
    return matrix.astype(np.float32), offset.astype(np.float32)


@functools.partial(jax.jit, static_argnames="model")
def _graded(
    variables: Any, images: jax.Array, labels: jax.Array, maps: Any, *, model: GoogLeNet
) -> tuple[jax.Array, jax.Array]:
    def squeeze(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        if name := _reduction(model, context):
            matrix, offset = maps[name]
            wide = jnp.matmul(y.astype("float32"), matrix, precision="highest")
            y = (wide + offset[None, None, None]).astype(y.dtype)
        return y

    with nn.intercept_methods(squeeze):
        logits: Any = model.apply(variables, images, train=False)
    return passes.graded(logits["main"], labels)


def _macs(
    model: GoogLeNet, variables: Any, shape: Sequence[int], kept: Sequence[Mapping[str, int]]
) -> list[int]:
    """Multiply-adds per image of convolutions and linear layers, as `launch.py audit` counts."""
    images = jax.ShapeDtypeStruct((1, *shape), "float32")
    layers = jax.eval_shape(functools.partial(activations, model), variables, images)
    totals = [0] * len(kept)
    for path, kernel in flatten_dict(variables["params"]).items():
        name = "/".join(path[:-1]).removesuffix("/Conv_0")
        if path[-1] != "kernel" or name not in layers:
            continue
        positions, (*_, c, r) = math.prod(layers[name].shape[1:-1]), kernel.shape
        for i, k in enumerate(kept):
            size = min(kernel.size, k[name] * (c + r)) if name in k else kernel.size
            totals[i] += positions * size
    return totals
