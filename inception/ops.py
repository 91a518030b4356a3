"""Operations that the framework lacks or is slow at."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def local_response_normalization(
    x: jax.Array,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> jax.Array:
    """Divides each value by a power of the energy in its neighbourhood of channels.

        y[c] = x[c] / (k + alpha / size * sum_{|d| <= size // 2} x[c + d]^2) ** beta

    The paper draws the layer and gives no constants; these are Caffe's (bvlc_googlenet).

    NOTE: Caffe divides alpha by the window's size. TensorFlow's `depth_radius=2, bias=1,
    alpha=2e-5, beta=.75` is the same function. It bites on inputs of 0-255 and is nearly
    the identity on inputs of unit variance.

    Args:
        x: [..., c], any float dtype; the energy is summed in float32.
        size: channels in the window, odd.

    Returns:
        The same shape and dtype as `x`.
    """
    squares = jnp.square(x.astype(jnp.float32))
    before_and_after = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
    padded = jnp.pad(squares, before_and_after)
    channels = x.shape[-1]
    # Not padded[..., d : d + channels]: in a batch of unknown size, as in an exported network,
    # that becomes a gather.
    energy = sum(lax.slice_in_dim(padded, d, d + channels, axis=-1) for d in range(size))
    scale = jnp.power(k + alpha / size * energy, -beta)
    return x * scale.astype(x.dtype)


def avg_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
    """Average pool without padding, [b, h, w, c] -> [b, (h - window) // stride + 1, ..., c].

    Flax's own fails under strict dtype promotion.
    """
    sums = nn.pooling.pool(x, 0.0, lax.add, (window, window), (stride, stride), "VALID")
    return sums / window**2


def adaptive_avg_pool(x: jax.Array, *, outputs: int) -> jax.Array:
    """Average pool to a fixed grid, [b, h, w, c] -> [b, outputs, outputs, c], any h and w.

    Cell i of an axis of n averages its values floor(i * n / outputs) to
    ceil((i + 1) * n / outputs), the last left out, as torch's adaptive_avg_pool2d: cells overlap
    where `outputs` does not divide n.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        cells = [
            lax.slice_in_dim(x, i * size // outputs, -(-(i + 1) * size // outputs), axis=axis)
            for i in range(outputs)
        ]
        x = jnp.stack([cell.mean(axis) for cell in cells], axis)
    return x


def max_pool(x: jax.Array, *, stride: int, window: int = 3) -> jax.Array:
    """Max pool padded SAME, [b, h, w, c] -> [b, ceil(h / stride), ceil(w / stride), c].

    On the CPU it is computed from shifted views, nine of a 3x3 window, and its gradient from the
    place of each maximum: benchmarks/max_pool.py shows what that saves over XLA's
    select-and-scatter, which other devices keep. Of equal values the first takes the gradient,
    in both.

    NOTE: on even inputs, as at 224 px, SAME pads a 3x3/2 by (0, 1) and equals Caffe's and torch's
    ceil mode; on odd inputs they have one row and column fewer. A 2x2/2 equals theirs on all.
    """
    return lax.platform_dependent(
        x,
        cpu=lambda x: shifted_max_pool(x, stride, window),
        default=lambda x: nn.max_pool(x, (window, window), (stride, stride), "SAME"),
    )


def _same_padding(size: int, stride: int, window: int) -> tuple[int, int, int]:
    """(outputs, padding before, padding after) along one axis."""
    outputs = -(-size // stride)
    padding = max((outputs - 1) * stride + window - size, 0)
    return outputs, padding // 2, padding - padding // 2


def _max_and_place(x: jax.Array, stride: int, window: int) -> tuple[jax.Array, jax.Array]:
    """The maxima, and which of the places in its window each comes from, int8."""
    b, h, w, c = x.shape
    out_h, top, bottom = _same_padding(h, stride, window)
    out_w, left, right = _same_padding(w, stride, window)
    padding = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)

    def view(place: int) -> jax.Array:
        i, j = divmod(place, window)
        stop = (b, i + (out_h - 1) * stride + 1, j + (out_w - 1) * stride + 1, c)
        return lax.slice(padded, (0, i, j, 0), stop, (1, stride, stride, 1))

    maxima = view(0)
    places = jnp.zeros(maxima.shape, jnp.int8)
    for place in range(1, window**2):
        candidate = view(place)
        places = jnp.where(candidate > maxima, jnp.int8(place), places)
        maxima = jnp.maximum(maxima, candidate)
    return maxima, places


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def shifted_max_pool(x: jax.Array, stride: int, window: int = 3) -> jax.Array:
    """`max_pool` by shifted views, with a gradient that remembers the places."""
    if stride == 1:
        return _max_and_place(x, stride, window)[0]
    return nn.max_pool(  # faster where no places are needed
        x, (window, window), (stride, stride), "SAME"
    )


def _forward(x: jax.Array, stride: int, window: int) -> tuple[jax.Array, tuple]:
    maxima, places = _max_and_place(x, stride, window)
    return maxima, (places, jnp.zeros((0, *x.shape[1:3])))  # the second carries the shape


def _backward(stride: int, window: int, saved: tuple, gradient: jax.Array) -> tuple[jax.Array]:
    places, shaped = saved
    # NOTE: a conditional, for XLA does not fuse across it: otherwise it computes the places anew
    # for each of the terms below. Its other branch is for gradients that are lost anyway.
    lost = jnp.isnan(gradient.ravel()[0])
    places = lax.cond(lost, jnp.zeros_like, lambda x: x, places)
    zero = jnp.zeros((), gradient.dtype)
    parts = []
    for place in range(window**2):
        spread = [(0, 0, 0)]
        for size, offset in zip(shaped.shape[1:], divmod(place, window), strict=True):
            outputs, before, _ = _same_padding(size, stride, window)
            first = offset - before
            spread.append((first, size - first - (outputs - 1) * stride - 1, stride - 1))
        spread.append((0, 0, 0))
        parts.append(lax.pad(jnp.where(places == place, gradient, zero), zero, spread))
    return (functools.reduce(jnp.add, parts),)


shifted_max_pool.defvjp(_forward, _backward)
