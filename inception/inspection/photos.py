"""The photos that excite a layer's channels most, and where in them."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inception import ops, pixels
from inception.data import progress
from inception.inspection.visualize import before_relu
from inception.model import GoogLeNet

BATCH = 16


class Responses(NamedTuple):
    """What n photos do to a layer's d directions."""

    peak: Any  # float32 [n, d], the maximum over positions, before ReLU
    position: Any  # int32 [n, d, 2], its row and column in the layer's grid
    mean: Any  # float32 [n, d], the mean over positions, after ReLU

    def best(self, k: int) -> np.ndarray:
        """The photos with the largest peaks, largest first, int [d, k]."""
        return np.argsort(-self.peak, 0, kind="stable")[:k].T


def responses(
    model: GoogLeNet,
    variables: Any,
    images: np.ndarray,
    directions: Mapping[str, np.ndarray],
    *,
    normalization: str,
) -> dict[str, Responses]:
    """Reads directions of layers on photos, as evaluation does.

    Args:
        images: uint8 [n, px, px, 3].
        directions: float [d, channels] by layer, as in `visualize`.
    """
    weights = {layer: jnp.asarray(rows, "float32") for layer, rows in directions.items()}
    parts = []
    for start in progress.bar(range(0, len(images), BATCH), desc="photos", unit="batch"):
        batch = images[start : start + BATCH]
        whole = np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), "uint8")])
        found = _responses(variables, whole, weights, model=model, normalization=normalization)
        parts.append(jax.tree.map(np.asarray, found))
    return jax.tree.map(lambda *rows: np.concatenate(rows)[: len(images)], *parts)


@functools.partial(jax.jit, static_argnames=("model", "normalization"))
def _responses(
    variables: Any,
    images: jax.Array,
    directions: dict[str, jax.Array],
    *,
    model: GoogLeNet,
    normalization: str,
) -> dict[str, Responses]:
    images = pixels.normalize(images, method=normalization)

    def of(layer: str) -> Responses:
        x = before_relu(model, variables, images, layer).astype("float32")
        x = x if x.ndim == 4 else x[:, None, None]
        values = jnp.einsum("bhwc,dc->bhwd", x, directions[layer])
        b, _, w, d = values.shape
        flat = values.reshape(b, -1, d)
        first = flat.argmax(1)
        return Responses(
            flat.max(1), jnp.stack([first // w, first % w], -1), ops.relu(flat).mean(1)
        )

    return {layer: of(layer) for layer in directions}


def patch(image: np.ndarray, field: tuple[int, int, int], position: tuple[int, int]) -> np.ndarray:
    """The part of a picture [h, w, 3] that a position of a layer sees.

    Args:
        field: size, stride and padding of the layer's receptive field, in pixels: position i sees
            pixels i * stride - padding to i * stride - padding + size - 1.
        position: row and column.
    """
    size, stride, padding = field
    top, left = (i * stride - padding for i in position)
    return image[max(top, 0) : top + size, max(left, 0) : left + size]
