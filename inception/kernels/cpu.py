"""Forms for CPUs: max pools, and the gradients of convolutions."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from inception.kernels.lean import max_and_argmax

LAYOUTS = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, stride: int, window: int = 3) -> jax.Array:
    """Max pool from shifted views, nine of a 3x3 window; its gradient from each window's argmax.

    XLA's own gradient, select-and-scatter, goes one window at a time: all thirteen pools at 224 px
    and batch 32 take 2460 ms with it, 230 ms with this form (`benchmarks/ops.py max_pool`). At
    stride 2, Flax's forward pass is faster where no gradient needs the argmax.
    """
    if stride == 1:
        return max_and_argmax(x, stride, window)[0]
    return nn.max_pool(x, (window, window), (stride, stride), "SAME")


def _max_pool_forward(x: jax.Array, stride: int, window: int) -> tuple[jax.Array, Any]:
    maxima, argmax = max_and_argmax(x, stride, window)
    return maxima, (argmax, jnp.zeros((0, *x.shape[1:3]), x.dtype))  # carries x's size and dtype


def _max_pool_backward(stride: int, window: int, saved: Any, gradient: jax.Array) -> tuple:
    argmax, like = saved
    wide = gradient.astype(jnp.float32)
    return (_to_argmax(argmax, wide, like.shape[1:], stride, window).astype(like.dtype),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _to_argmax(
    argmax: jax.Array, gradient: jax.Array, sizes: tuple[int, ...], stride: int, window: int
) -> jax.Array:
    """The gradient of an input of `sizes` (h, w): moves each maximum's to its position."""
    # NOTE: XLA does not fuse across a conditional; without it, XLA recomputes the argmax for each
    # term below. The other branch runs if the first gradient is NaN: the step is lost anyway.
    lost = jnp.isnan(gradient.ravel()[0])
    argmax = lax.cond(lost, jnp.zeros_like, lambda x: x, argmax)
    zero = jnp.zeros((), gradient.dtype)
    around = lax.padtype_to_pads(sizes, (window, window), (stride, stride), "SAME")
    axes = [(n, -(-n // stride), before) for n, (before, _) in zip(sizes, around, strict=True)]

    def of_offset(offset: int, phase: tuple[int, int]) -> jax.Array | None:
        """One window offset's term, for every stride-th row and column from `phase` on."""
        moves = [(0, 0, 0)]
        for (size, outputs, before), at, first in zip(
            axes, divmod(offset, window), phase, strict=True
        ):
            shift, rest = divmod(first + before - at, stride)
            if rest:
                return None
            moves.append((-shift, -(-size // stride) - outputs + shift, 0))
        own = jnp.where(argmax == offset, gradient, zero)
        return lax.pad(own, zero, [*moves, (0, 0, 0)])

    def of_phase(row: int, column: int) -> jax.Array:
        terms = (of_offset(offset, (row, column)) for offset in range(window**2))
        return functools.reduce(jnp.add, [term for term in terms if term is not None])

    if stride == 1:
        return of_phase(0, 0)
    # NOTE: every phase of the stride is computed separately, then the phases are interleaved: with
    # zeros between a phase's rows and columns, each of the nine terms had the input's size.
    rows = [
        jnp.stack([of_phase(i, j) for j in range(stride)], axis=3) for i in range(stride)
    ]  # [b, h / stride, w / stride, stride, c]
    whole = jnp.stack(rows, axis=2)
    b, h, _, w, _, c = whole.shape
    whole = whole.reshape(b, h * stride, w * stride, c)
    return whole[:, : sizes[0], : sizes[1]]


def convolution(
    x: jax.Array, kernel: jax.Array, window_strides: Sequence[int], padding: Any, **_choices: Any
) -> jax.Array:
    """lax.conv_general_dilated of [b, h, w, c] and [kh, kw, c, f] without other choices.

    The gradients of kernels are matrix products, three to ten times as fast as XLA's convolutions
    (`benchmarks/ops.py convolution`). Sums over the batch remain sums over the batch, so a sharded
    batch does not move between devices.

    NOTE: XLA's CPU compiler has a fast convolution for LAYOUTS only. It converts the gradients'
    convolutions to LAYOUTS only outside of loops (jax-ml/jax#12868): in `accumulate`'s loop a step
    took ten times as long. So this form uses LAYOUTS from the start.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], window_strides, padding)
    return _convolution(x, kernel, tuple(window_strides), tuple(map(tuple, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUTS)


def _conv_forward(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any) -> tuple:
    return _convolution(x, kernel, strides, padding), (x, kernel)


def _conv_backward(strides: Any, padding: Any, saved: tuple, gradient: jax.Array) -> tuple:
    x, kernel = saved
    around = []
    for axis, (before, _) in enumerate(padding):
        n, k, m = (
            array.shape[i] for array, i in ((x, axis + 1), (kernel, axis), (gradient, axis + 1))
        )
        spread = (m - 1) * strides[axis] + 1  # the gradient's size with the stride's zeros
        around.append((k - 1 - before, n + before - spread))
    of_input = lax.conv_transpose(
        gradient, kernel, strides, around, dimension_numbers=LAYOUTS, transpose_kernel=True
    )
    return of_input, _gradient_of_kernel(x, kernel, strides, padding, gradient)


_convolution.defvjp(_conv_forward, _conv_backward)


def _gradient_of_kernel(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, gradient: jax.Array
) -> jax.Array:
    """One matrix product for each row of the kernel, over the row's pixels side by side."""
    kh, kw, c, f = kernel.shape
    # The barrier awaits the gradient: else the compiler may gather all pixels in the forward pass.
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

    once = strides[0] == 1  # at a larger stride, kernel rows read half of the pixels or less
    if once:
        x = side_by_side(x)
    rows = []
    for i in range(kh):
        row = along(x, 1, i, h)
        row = (row if once else side_by_side(row)).reshape(-1, kw * c)
        rows.append(jnp.tensordot(row, gradient, (0, 0)))
        # The barrier orders the rows: else the compiler holds the pixels of all rows at once.
        x, rows[-1] = lax.optimization_barrier((x, rows[-1]))
    # The barrier stacks once, not in every kernel of the update that reads it: less to compile.
    return lax.optimization_barrier(jnp.stack(rows)).reshape(kernel.shape)
