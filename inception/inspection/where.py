"""Where in a picture a class is seen, by which branch, and at which depth it is recognised."""

import functools
from collections.abc import Callable
from typing import Any

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from inception import UserError, ops
from inception.data import progress
from inception.evaluation import features
from inception.inspection import passes, scales
from inception.inspection.gradients import MAIN, check_heads, of_heads
from inception.model import TABLE_1, GoogLeNet

SQUARES = 14  # along a side of a picture: `occlusion` by default


def check_layer(model: GoogLeNet, variables: Any, layer: str, px: int) -> tuple[int, ...]:
    """The shape of a layer's activations of a picture of px x px, (h, w, c).

    Raises:
        UserError: no such layer, with the nearest; one without positions.
    """
    image = jax.ShapeDtypeStruct((1, px, px, 3), jnp.float32)
    found = jax.eval_shape(functools.partial(features.activations, model), variables, image)
    passes.check_name(layer, found)
    if len(shape := found[layer].shape[1:]) < 3:
        raise UserError(
            f"`layers`={layer} has no positions, which a map needs: take 5b or a layer before it"
        )
    return shape


def grad_cam(
    model: GoogLeNet, variables: Any, images: Any, classes: Any, *, layer: str = "5b"
) -> np.ndarray:
    """Grad-CAM's maps by branch, before its ReLU: float32 [b, h, w, n].

    Selvaraju et al., "Grad-CAM" (2017), equations 1 and 2: each channel weighs as the mean over
    the positions of the gradient of the class's logit. The map is the sum over the branches; its
    ReLU keeps what speaks for the class. At 5b, where an average precedes the classifier, the sum
    times h * w is CAM without the classifier's bias. Other layers than modules have one branch.

    Args:
        images: normalised, float32 [b, px, px, 3].
        classes: int [b], a class for each image.
        layer: one of `features.activations` with positions. n is 4 for modules, as scales.BRANCHES.

    Raises:
        UserError: as `check_layer`.
    """
    shape = check_layer(model, variables, layer, images.shape[1])
    ends = scales.ends(variables, layer) if layer in TABLE_1 else ()
    weighted = _weighted(
        variables, images, classes, jnp.zeros((len(images), *shape)), model=model, layer=layer
    )
    parts = np.split(np.asarray(weighted), ends, axis=-1)
    return np.stack([part.sum(-1) for part in parts], -1)


@functools.partial(jax.jit, static_argnames=("model", "layer"))
def _weighted(
    variables: Any,
    images: jax.Array,
    classes: jax.Array,
    zeros: jax.Array,
    *,
    model: GoogLeNet,
    layer: str,
) -> jax.Array:
    """The layer's activations, each channel times its weight for the class, [b, h, w, c]."""

    def score(added: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen: list[jax.Array] = []

        def add(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
            x = call(*args, **kwargs)
            if context.method_name != "__call__" or "/".join(context.module.path) != layer:
                return x
            # Where ReLU follows a pool, it comes twice: the values are the same.
            seen.append(ops.relu(x))
            return seen[0] + added.astype(x.dtype)

        with nn.intercept_methods(add):
            logits: Any = model.apply(variables, images, train=False)
        of_class = jnp.take_along_axis(logits[MAIN], classes[:, None], axis=-1)
        return of_class.sum(), seen[0].astype(jnp.float32)

    gradient, activations = jax.grad(score, has_aux=True)(zeros)
    return activations * gradient.mean((1, 2), keepdims=True)


def occlusion(
    model: GoogLeNet,
    variables: Any,
    images: Any,
    classes: Any,
    *,
    squares: int = SQUARES,
    side_px: int = 0,
) -> np.ndarray:
    """The drop of the class's probability under a grey square, float32 [b, squares, squares].

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 4.2.
    It looks at the network from outside, and so is a check on maps from gradients. Grey is 0 of
    the normalised image: the mean colour.

    Args:
        images: normalised, float32 [b, px, px, 3].
        classes: int [b], a class for each image.
        squares: positions along a side; a square's centre is the centre of a cell of that grid.
        side_px: of the square, which the picture's edge may cut; 0: a quarter of px.
    """
    px = images.shape[1]
    side = side_px or px // 4
    starts = [round((i + 0.5) * px / squares - side / 2) for i in range(squares)]
    probability = functools.partial(_probability, variables, images, classes, model=model)
    whole = probability(0, 0, 0, 0)
    rows = [
        jax.device_get([whole - probability(top, top + side, left, left + side) for left in starts])
        for top in progress.bar(starts, desc="occlusion", unit="row", leave=False)
    ]
    return np.moveaxis(np.stack(rows), -1, 0)


@functools.partial(jax.jit, static_argnames="model")
def _probability(
    variables: Any,
    images: jax.Array,
    classes: jax.Array,
    top: int,
    bottom: int,
    left: int,
    right: int,
    *,
    model: GoogLeNet,
) -> jax.Array:
    """The class's probability, float32 [b], with a rectangle of the images grey."""
    rows = jnp.arange(images.shape[1])[None, :, None, None]
    columns = jnp.arange(images.shape[2])[None, None, :, None]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    grey = jnp.where(inside, 0.0, images)
    logits: Any = model.apply(variables, grey, train=False)
    return jnp.take_along_axis(nn.softmax(logits[MAIN]), classes[:, None], axis=-1)[:, 0]


def rank_correlation(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of two maps of each picture, [b, h, w], float64 [b].

    The larger map is averaged over the smaller one's cells. NaN for a constant map.
    """
    if maps.shape[1] < others.shape[1]:
        maps, others = others, maps
    h, w = others.shape[1:]
    small = [cv2.resize(m.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA) for m in maps]
    pairs = zip(small, others, strict=True)
    return np.asarray([scipy.stats.spearmanr(a, b, axis=None).statistic for a, b in pairs])


def recognised(
    model: GoogLeNet, variables: Any, images: Any, labels: Any
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What each classifier says at its depth, in evaluation: from below '4a', '4d', 'main'.

    Args:
        images: normalised, float32 [b, px, px, 3], of the size of training: a head has one.
        labels: int [b].

    Returns:
        {head: (whether its first guess is the label, bool [b]; the label's probability, float32
        [b])}; their means are accuracy and probability by depth.

    Raises:
        UserError: no heads in the network or its weights.
    """
    check_heads(model, variables)
    found = {}
    for head, logits in _read(variables, images, model=model).items():
        p = np.asarray(nn.softmax(logits))
        found[head] = (p.argmax(-1) == labels, np.take_along_axis(p, labels[:, None], -1)[:, 0])
    return found


@functools.partial(jax.jit, static_argnames="model")
def _read(variables: Any, images: jax.Array, *, model: GoogLeNet) -> dict[str, jax.Array]:
    """Each classifier's logits, without dropout."""
    layers = features.activations(model, variables, images)
    make_head, logits = model.layers()[2], {}
    for name in of_heads(model):
        own = {k: tree[f"head_{name}"] for k, tree in variables.items() if f"head_{name}" in tree}
        logits[name] = make_head().apply(own, layers[name], train=False)
    return {**logits, MAIN: layers[features.CLASSIFIER].astype(jnp.float32)}
