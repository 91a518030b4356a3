"""Operations that the framework lacks or is slow at.

Some of what a training step has many of is from lax, which is sooner traced than jnp.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LRN_SIZE, LRN_ALPHA, LRN_K = 5, 1e-4, 1.0


@jax.custom_vjp
def local_response_normalization(x: jax.Array) -> jax.Array:
    """Divides each value by a power of the energy in its neighbourhood of five channels.

        y[c] = x[c] / (1 + 1e-4 / 5 * sum_{|d| <= 2} x[c + d]^2) ** .75

    The paper draws the layer and gives no constants; these are Caffe's (bvlc_googlenet).

    NOTE: Caffe divides alpha by the window's size. TensorFlow's `depth_radius=2, bias=1,
    alpha=2e-5, beta=.75` is the same function. It bites on inputs of 0-255 and is nearly
    the identity on inputs of unit variance.

    Its gradient keeps the input alone: benchmarks/ops.py shows what that saves.

    Args:
        x: [..., c], any float dtype; computed in float32.

    Returns:
        The same shape and dtype as `x`.
    """
    return (x.astype(jnp.float32) / _to_the_beta(_energy(x))).astype(x.dtype)


def _sum_of_neighbours(x: jax.Array) -> jax.Array:
    before_and_after = [(0, 0)] * (x.ndim - 1) + [(LRN_SIZE // 2, LRN_SIZE // 2)]
    padded = jnp.pad(x, before_and_after)
    channels = x.shape[-1]
    # Not padded[..., d : d + channels]: in a batch of unknown size, as in an exported network,
    # that becomes a gather.
    views = (lax.slice_in_dim(padded, d, d + channels, axis=-1) for d in range(LRN_SIZE))
    return functools.reduce(lax.add, views)


def _energy(x: jax.Array) -> jax.Array:
    squares = jnp.square(x.astype(jnp.float32))
    return LRN_K + LRN_ALPHA / LRN_SIZE * _sum_of_neighbours(squares)


def _to_the_beta(energy: jax.Array) -> jax.Array:
    root = jnp.sqrt(energy)
    return root * jnp.sqrt(root)  # energy ** .75 in a third of jnp.power's time


def _lrn_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return local_response_normalization(x), x


def _lrn_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # The energy anew: without the barrier the compiler keeps that of the forward pass.
    x, gradient = lax.optimization_barrier((x, gradient))
    energy = _energy(x)
    wide, gradient = (v.astype(jnp.float32) for v in (x, gradient))
    gradient = gradient / _to_the_beta(energy)
    others = _sum_of_neighbours(gradient * wide / energy)
    factor = 2 * 0.75 * LRN_ALPHA / LRN_SIZE
    return ((gradient - factor * wide * others).astype(x.dtype),)


local_response_normalization.defvjp(_lrn_forward, _lrn_backward)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0); its gradient, 0 at 0, keeps the output alone, which the next layer keeps too."""
    return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


def _relu_backward(y: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    y = lax.optimization_barrier(y)  # or the compiler keeps x too, to compute y from it anew
    return (lax.select(lax.gt(y, lax.full_like(y, 0)), gradient, lax.full_like(gradient, 0)),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def concatenate_relu(*branches: jax.Array) -> jax.Array:
    """The ReLUs of branches [b, h, w, c...], side by side; likewise keeps the output alone."""
    return jnp.concatenate([relu(x) for x in branches], axis=-1)


def _concatenate_forward(*branches: jax.Array) -> tuple[jax.Array, tuple]:
    y = concatenate_relu(*branches)
    return y, (y, [jnp.zeros((0, x.shape[-1])) for x in branches])  # which carry the widths


def _concatenate_backward(saved: tuple, gradient: jax.Array) -> tuple[jax.Array, ...]:
    y, widths = saved
    ends = np.cumsum([w.shape[-1] for w in widths])
    (gradient,) = _relu_backward(y, gradient)
    return tuple(jnp.split(gradient, ends[:-1], axis=-1))


concatenate_relu.defvjp(_concatenate_forward, _concatenate_backward)


class Dropout(nn.Module):
    """Dropout whose mask of a row is a function of the key and the row's number alone.

    So a row loses the same values in whichever part of a batch it is computed. Flax's own draws
    one mask for the whole shape it sees.

    [b, ...] -> [b, ...]: in training each value is 0 with probability `rate`, and divided by
    1 - rate otherwise; else the input.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: jax.Array | None = None) -> jax.Array:
        if not train or self.rate == 0:
            return x
        if rows is None:
            rows = jnp.arange(x.shape[0])
        keep = 1.0 - self.rate
        key = self.make_rng("dropout")

        def mask(row: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, row), keep, x.shape[1:])

        return jnp.where(jax.vmap(mask)(rows), x / keep, 0.0)


def avg_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
    """Average pool without padding, [b, h, w, c] -> [b, (h - window) // stride + 1, ..., c].

    Summed in float32. Flax's own fails under strict dtype promotion.
    """
    wide = x.astype(jnp.float32)
    sums = nn.pooling.pool(wide, 0.0, lax.add, (window, window), (stride, stride), "VALID")
    return (sums / window**2).astype(x.dtype)


def adaptive_avg_pool(x: jax.Array, *, outputs: int) -> jax.Array:
    """Average pool to a fixed grid, [b, h, w, c] -> [b, outputs, outputs, c], any h and w.

    Cell i of an axis of n averages its values floor(i * n / outputs) to
    ceil((i + 1) * n / outputs), the last left out, as torch's adaptive_avg_pool2d: cells overlap
    where `outputs` does not divide n. Summed in float32.
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


def max_pool(x: jax.Array, *, stride: int, window: int = 3) -> jax.Array:
    """Max pool padded SAME, [b, h, w, c] -> [b, ceil(h / stride), ceil(w / stride), c].

    On the CPU it is computed from shifted views, nine of a 3x3 window, and its gradient from the
    place of each maximum: benchmarks/ops.py shows what that saves over XLA's
    select-and-scatter, which other devices keep. Of equal values the first takes the gradient,
    in both.

    NOTE: on even inputs, as at 224 px, SAME pads a 3x3/2 by (0, 1) and equals Caffe's and torch's
    ceil mode; on odd inputs they have one row and column fewer. A 2x2/2 equals theirs on all.
    """
    return _max_pool(x, stride, window)


def _framework_pool(x: jax.Array, stride: int, window: int) -> jax.Array:
    return nn.max_pool(x, (window, window), (stride, stride), "SAME")


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
        places = lax.select(lax.gt(candidate, maxima), lax.full_like(places, place), places)
        maxima = lax.max(maxima, candidate)
    return maxima, places


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, stride: int, window: int) -> jax.Array:
    if stride != 1:  # the framework's is faster where no places are needed
        return _framework_pool(x, stride, window)
    return lax.platform_dependent(
        x,
        cpu=lambda x: _max_and_place(x, stride, window)[0],
        default=lambda x: _framework_pool(x, stride, window),
    )


def _pool_forward(x: jax.Array, stride: int, window: int) -> tuple[jax.Array, tuple]:
    def of_framework(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = _framework_pool(x, stride, window)
        return y, jnp.zeros(y.shape, jnp.int8)

    maxima, places = lax.platform_dependent(
        x, cpu=lambda x: _max_and_place(x, stride, window), default=of_framework
    )
    return maxima, (x, places)  # each platform reads one of them, and keeps no other


def _pool_backward(stride: int, window: int, saved: tuple, gradient: jax.Array) -> tuple[jax.Array]:
    x, places = saved

    def of_framework(x: jax.Array, _places: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: _framework_pool(x, stride, window), x)[1](gradient)[0]

    def of_places(x: jax.Array, places: jax.Array, gradient: jax.Array) -> jax.Array:
        wide = gradient.astype(jnp.float32)
        return _to_places(places, wide, x.shape, stride, window).astype(x.dtype)

    return (lax.platform_dependent(x, places, gradient, cpu=of_places, default=of_framework),)


_max_pool.defvjp(_pool_forward, _pool_backward)


def _to_places(
    places: jax.Array, gradient: jax.Array, shape: tuple[int, ...], stride: int, window: int
) -> jax.Array:
    """The gradient of the input, of `shape`: each of the maxima's goes to where it came from."""
    # NOTE: a conditional, for XLA does not fuse across it: otherwise it computes the places anew
    # for each of the terms below. Its other branch is for gradients that are lost anyway.
    lost = jnp.isnan(gradient.ravel()[0])
    places = lax.cond(lost, jnp.zeros_like, lambda x: x, places)
    zero = jnp.zeros((), gradient.dtype)
    axes = [(n, *_same_padding(n, stride, window)[:2]) for n in shape[1:3]]

    def of_place(place: int, phase: tuple[int, int]) -> jax.Array | None:
        """Of one place in the windows, for every stride-th row and column from `phase` on."""
        moves = [(0, 0, 0)]
        for (size, outputs, before), offset, first in zip(
            axes, divmod(place, window), phase, strict=True
        ):
            shift, rest = divmod(first + before - offset, stride)
            if rest:
                return None
            moves.append((-shift, -(-size // stride) - outputs + shift, 0))
        here = lax.eq(places, lax.full_like(places, place))
        own = lax.select(here, gradient, lax.full_like(gradient, 0))
        return lax.pad(own, zero, [*moves, (0, 0, 0)])

    def of_phase(row: int, column: int) -> jax.Array:
        terms = (of_place(place, (row, column)) for place in range(window**2))
        return functools.reduce(lax.add, [term for term in terms if term is not None])

    if stride == 1:
        return of_phase(0, 0)
    # NOTE: the rows and columns that a stride sets apart are computed apart and then shuffled
    # together: with zeros in between, each of the nine terms had the size of the whole.
    rows = [
        jnp.stack([of_phase(i, j) for j in range(stride)], axis=3) for i in range(stride)
    ]  # [b, h / stride, w / stride, stride, c]
    whole = jnp.stack(rows, axis=2)
    b, h, _, w, _, c = whole.shape
    whole = whole.reshape(b, h * stride, w * stride, c)
    return whole[:, : axes[0][0], : axes[1][0]]


def convolution(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_choices: Any
) -> jax.Array:
    """lax.conv_general_dilated of [b, h, w, c] and [kh, kw, c, f] without other choices.

    On the CPU the gradients of kernels are matrix products, three to ten times as fast there as
    XLA's convolutions: benchmarks/ops.py. Sums over the batch stay sums over it, so a batch that
    is split over devices stays where it is.

    NOTE: XLA's CPU compiler has a fast convolution for these layouts alone, and brings those of
    the gradients into them only outside of loops (jax-ml/jax#12868); in `accumulate`'s loop a step
    took ten times as long. Here they are in these layouts from the start.
    """
    return _convolution(x, kernel, tuple(strides), tuple(map(tuple, padding)))


LAYOUTS = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUTS)


def _conv_forward(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any) -> tuple:
    return _convolution(x, kernel, strides, padding), (x, kernel)


def _conv_backward(strides: Any, padding: Any, saved: tuple, gradient: jax.Array) -> tuple:
    """The gradients of the input and of the kernel, by convolutions and by what CPUs need.

    NOTE: what jax.vjp would write; calling it makes the tracing of a step a tenth longer.
    """
    x, kernel = saved
    around_input, around_gradient = [], []
    for n, k, m, s, (before, _) in zip(
        x.shape[1:3], kernel.shape[:2], gradient.shape[1:3], strides, padding, strict=True
    ):
        spread = (m - 1) * s + 1  # of the gradient with the stride's zeros in between
        around_input.append((before, spread + k - 1 - n - before))
        around_gradient.append((k - 1 - before, n + before - spread))
    ones = (1, 1)

    def of_input(gradient: jax.Array, flipped: jax.Array, layout: str) -> jax.Array:
        layouts = ("NHWC", layout, "NHWC")
        return lax.conv_general_dilated(
            gradient, flipped, ones, around_gradient, strides, dimension_numbers=layouts
        )

    def of_framework(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple:
        layouts = ("CHWN", "IHWO", "HWNC")
        of_kernel = lax.conv_general_dilated(
            x, gradient, ones, around_input, ones, strides, dimension_numbers=layouts
        )
        return of_input(gradient, lax.rev(kernel, (0, 1)), "HWOI"), of_kernel

    def on_cpu(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple:
        of_kernel = _gradient_of_kernel(x, kernel, strides, padding, gradient)
        flipped = lax.transpose(lax.rev(kernel, (0, 1)), (0, 1, 3, 2))
        return of_input(gradient, flipped, "HWIO"), of_kernel

    return lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=of_framework)


_convolution.defvjp(_conv_forward, _conv_backward)


def _gradient_of_kernel(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, gradient: jax.Array
) -> jax.Array:
    """One matrix product for each row of the kernel, of its pixels side by side."""
    kh, kw, c, f = kernel.shape
    # Not before the gradient is there, or the compiler may gather all pixels in the forward pass.
    x, gradient = lax.optimization_barrier((x, gradient))
    around = [(before, after, 0) for before, after in ((0, 0), *padding, (0, 0))]
    x = lax.pad(x, jnp.zeros((), x.dtype), around)
    _, h, w, _ = gradient.shape
    gradient = gradient.reshape(-1, f)

    def along(x: jax.Array, axis: int, start: int, count: int) -> jax.Array:
        stride = strides[axis - 1]
        return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)

    def side_by_side(x: jax.Array) -> jax.Array:  # [b, ..., padded w, c] -> [b, ..., w, kw * c]
        return jnp.concatenate([along(x, 2, j, w) for j in range(kw)], -1)

    once = strides[0] == 1  # else it would be twice what one row of the kernel reads, or more
    if once:
        x = side_by_side(x)
    rows = []
    for i in range(kh):
        row = along(x, 1, i, h)
        row = (row if once else side_by_side(row)).reshape(-1, kw * c)
        rows.append(lax.dot_general(row, gradient, (((0,), (0,)), ((), ()))))
        # One row's pixels after the other, or the compiler holds those of all.
        x, rows[-1] = lax.optimization_barrier((x, rows[-1]))
    # Once, not in every kernel of the update that reads it: less to compile.
    return lax.optimization_barrier(jnp.stack(rows)).reshape(kernel.shape)
