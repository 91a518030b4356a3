"""The paper's operations in plain form.

`by_platform` replaces an operation by another form where kernels/ contains one for the platform.
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from inception.kernels import by_platform

LRN_SIZE, LRN_ALPHA, LRN_K = 5, 1e-4, 1.0


@by_platform
def local_response_normalization(x: jax.Array) -> jax.Array:
    """Divides each value by a power of the energy in its neighbourhood of five channels::

        y[c] = x[c] / (1 + 1e-4 / 5 * sum_{|d| <= 2} x[c + d]^2) ** .75

    The paper draws the layer and gives no constants; these are Caffe's (bvlc_googlenet).

    NOTE: Caffe divides alpha by the window's size. TensorFlow's `depth_radius=2, bias=1,
    alpha=2e-5, beta=.75` is the same function. It changes inputs of 0-255 strongly and is
    nearly the identity on inputs of unit variance.

    Args:
        x: [..., c], any float dtype; computed in float32.

    Returns:
        The same shape and dtype as `x`.
    """
    return (x.astype(jnp.float32) / to_three_quarters(energy(x))).astype(x.dtype)


def energy(x: jax.Array) -> jax.Array:
    """LRN's divisor before the power of .75: 1 + 1e-4 / 5 * the sum of squares, float32."""
    squares = jnp.square(x.astype(jnp.float32))
    return LRN_K + LRN_ALPHA / LRN_SIZE * sum_of_neighbours(squares)


def sum_of_neighbours(x: jax.Array) -> jax.Array:
    """The sum of the five channels around each channel, [..., c] -> [..., c]."""
    channels, around = x.shape[-1], LRN_SIZE // 2
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(around, around)])
    # padded[..., d : d + channels] would become a gather where the batch size is unknown, as in an
    # exported network.
    views = (lax.slice_in_dim(padded, d, d + channels, axis=-1) for d in range(LRN_SIZE))
    return functools.reduce(jnp.add, views)


def to_three_quarters(x: jax.Array) -> jax.Array:
    """x ** .75, in a third of jnp.power's time."""
    root = jnp.sqrt(x)
    return root * jnp.sqrt(root)


@by_platform
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0); its gradient is 0 at 0."""
    return nn.relu(x)


@by_platform
def convolution(x: jax.Array, kernel: jax.Array, *args: Any, **choices: Any) -> jax.Array:
    """lax.conv_general_dilated of [b, h, w, c] and [kh, kw, c, f]."""
    return lax.conv_general_dilated(x, kernel, *args, **choices)


class Conv(nn.Conv):
    """nn.Conv with a bias added by `add_bias`."""

    use_bias: bool = False  # Flax's; ours replaces it

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return add_bias(self, inspect.unwrap(nn.Conv.__call__)(self, x))


class Dense(nn.Dense):
    """nn.Dense with a bias added by `add_bias`."""

    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return add_bias(self, inspect.unwrap(nn.Dense.__call__)(self, x))


def add_bias(layer: Conv | Dense, y: jax.Array) -> jax.Array:
    """y plus the layer's bias in y's dtype; the bias's gradient is a float32 sum.

    Flax's own is a sum in y's dtype, and in bfloat16 a CPU's stops growing at 256 equal terms
    (docs/reasons/findings.md). Layers unwrap Flax's method so that what intercepts or captures
    calls sees one, with the bias in it.
    """
    bias = layer.param("bias", layer.bias_init, y.shape[-1:], layer.param_dtype)
    return y + jnp.broadcast_to(bias, y.shape).astype(y.dtype)


@by_platform
def side_by_side(
    module: Any, x: jax.Array, train: bool, filters: Mapping[str, int]
) -> list[jax.Array]:
    """Applies 1x1 convolutions `module.conv`, {name: filters}, to the same input."""
    return [module.conv(n, 1, name=name)(x, train) for name, n in filters.items()]


@by_platform
def max_pool(x: jax.Array, *, stride: int, window: int = 3) -> jax.Array:
    """Max pool padded SAME, [b, h, w, c] -> [b, ceil(h / stride), ceil(w / stride), c].

    The gradient goes to the first of equal values.

    NOTE: on even inputs, as at 224 px, SAME pads a 3x3/2 by (0, 1) and equals Caffe's and torch's
    ceil mode; on odd inputs ceil mode returns one row and column fewer. A 2x2/2 is always equal.
    """
    return nn.max_pool(x, (window, window), (stride, stride), "SAME")


def avg_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
    """Average pool without padding, [b, h, w, c] -> [b, (h - window) // stride + 1, ..., c].

    The sum is float32. Flax's avg_pool fails under strict dtype promotion.
    """
    wide = x.astype(jnp.float32)
    sums = nn.pooling.pool(wide, 0.0, lax.add, (window, window), (stride, stride), "VALID")
    return (sums / window**2).astype(x.dtype)


def adaptive_avg_pool(x: jax.Array, *, outputs: int) -> jax.Array:
    """Average pool to a fixed grid, [b, h, w, c] -> [b, outputs, outputs, c], any h and w.

    Cell i of an axis of n averages the values from floor(i * n / outputs) to, but without,
    ceil((i + 1) * n / outputs), as torch's adaptive_avg_pool2d does: cells overlap where
    `outputs` does not divide n. The sum is float32.
    """
    means = x.astype(jnp.float32)
    for axis in (1, 2):
        size = x.shape[axis]
        cells = [
            lax.slice_in_dim(means, i * size // outputs, -(-(i + 1) * size // outputs), axis=axis)
            for i in range(outputs)
        ]
        means = jnp.stack([cell.mean(axis) for cell in cells], axis)
    return means.astype(x.dtype)


class Dropout(nn.Module):
    """Dropout whose mask of a row is a function of the key and the row's number only.

    So a row has the same mask however its batch is split.

    [b, ...] -> [b, ...]: in training each value becomes 0 with probability `rate`, else it is
    divided by 1 - rate; in evaluation the input is returned.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: jax.Array | None = None) -> jax.Array:
        if not train or self.rate == 0:
            return x
        rows = jnp.arange(len(x)) if rows is None else rows
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), rows)
        of_row = nn.Dropout(self.rate, deterministic=False)
        return jax.vmap(lambda row, key: of_row(row, rng=key))(x, keys)


def drop_path(
    x: jax.Array, key: jax.Array, *, rate: float, rows: jax.Array | None = None
) -> jax.Array:
    """Each row becomes 0 with probability `rate`, else it is divided by 1 - rate.

    [b, h, w, c] -> [b, h, w, c]. A row's fate is a function of the key and of its number in `rows`.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        key, jnp.arange(len(x)) if rows is None else rows
    )
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    return x * (kept.astype(x.dtype) / (1 - rate))[:, None, None, None]


@by_platform
def to_update(gradients: Any) -> Any:
    """The gradients in the form that the optimizer reads: in plain form, unchanged."""
    return gradients
