"""Sparsity: how much of each layer is zero after ReLU, and which units no picture wakes."""

import functools
from typing import Any

import jax
import numpy as np

from inception.evaluation.features import CLASSIFIER, activations
from inception.inspection import passes
from inception.model import GoogLeNet


def zeros(
    model: GoogLeNet, variables: Any, images: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Zeros of each layer after ReLU, and pictures that wake its units, by `activations`' names.

    A unit is a channel; a picture wakes it if it is not 0 at some position. A unit that no picture
    wakes is dead for this set: the gradient of its weights is 0.

    Args:
        images: normalised, float32 [n, px, px, 3].

    Returns:
        {layer: (the share of its values that are 0, float64 [], the share of the images that wake
        each unit, float64 [c])}
    """
    found = [
        jax.device_get(_awake(variables, images[rows], model=model))
        for rows in passes.batches(images, "zeros")
    ]
    layers = {}
    for name in found[0]:
        awake = np.concatenate([shares[name] for shares in found]).astype(float)
        layers[name] = 1 - awake.mean(), (awake > 0).mean(0)
    return layers


@functools.partial(jax.jit, static_argnames="model")
def _awake(variables: Any, images: jax.Array, *, model: GoogLeNet) -> dict[str, jax.Array]:
    """By layer, the share of positions at which each unit is not 0, float32 [b, c]."""
    layers = activations(model, variables, images)
    del layers[CLASSIFIER]
    # NaN is not 0.
    return {n: (x.reshape(len(x), -1, x.shape[-1]) != 0).mean(1) for n, x in layers.items()}
