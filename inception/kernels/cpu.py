"""What CPUs compute in another form: max pools, and the gradients of convolutions."""

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
    """From shifted views, nine of a 3x3 window; its gradient from the argmax of each window.

    XLA's own gradient, select-and-scatter, goes one window at a time: all thirteen pools at 224 px
    and batch 32 take 2460 ms with it and 230 ms so (`benchmarks/ops.py max_pool`). At stride 2 the
    framework's forward pass is the faster one, where no gradient needs the argmax.
    """
    if stride == 1:
        return max_and_argmax(x, stride, window)[0]
    return nn.max_pool(x, (window, window), (stride, stride), "SAME")


def _max_pool_forward(x: jax.Array, stride: int, window: int) -> tuple[jax.Array, Any]:
    maxima, argmax = max_and_argmax(x, stride, window)
    return maxima, (argmax, jnp.zeros((0, *x.shape[1:3]), x.dtype))  # which carries the size


def _max_pool_backward(stride: int, window: int, saved: Any, gradient: jax.Array) -> tuple:
    argmax, like = saved
    wide = gradient.astype(jnp.float32)
    return (_to_argmax(argmax, wide, like.shape[1:], stride, window).astype(like.dtype),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _to_argmax(
    argmax: jax.Array, gradient: jax.Array, sizes: tuple[int, ...], stride: int, window: int
) -> jax.Array:
    """The gradient of an input of `sizes` (h, w): each maximum's goes to where it came from."""
    # NOTE: a conditional, for XLA does not fuse across it: otherwise it computes the argmax anew
    # for each of the terms below. Its other branch is for gradients that are lost anyway.
    lost = jnp.isnan(gradient.ravel()[0])
    argmax = lax.cond(lost, jnp.zeros_like, lambda x: x, argmax)
    zero = jnp.zeros((), gradient.dtype)
    around = lax.padtype_to_pads(sizes, (window, window), (stride, stride), "SAME")
    axes = [(n, -(-n // stride), before) for n, (before, _) in zip(sizes, around, strict=True)]

    def of_offset(offset: int, phase: tuple[int, int]) -> jax.Array | None:
        """From one offset in the windows, for every stride-th row and column from `phase` on."""
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
    # NOTE: the rows and columns that a stride sets apart are computed apart and then shuffled
    # together: with zeros in between, each of the nine terms had the size of the whole.
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
    (`benchmarks/ops.py convolution`). Sums over the batch stay sums over it, so a batch that is
    split over devices stays where it is.

    NOTE: XLA's CPU compiler has a fast convolution for these layouts alone, and brings those of
    the gradients into them only outside of loops (jax-ml/jax#12868); in `accumulate`'s loop a step
    took ten times as long. Here they are in these layouts from the start.
    """
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
        spread = (m - 1) * strides[axis] + 1  # of the gradient with the stride's zeros in between
        around.append((k - 1 - before, n + before - spread))
    of_input = lax.conv_transpose(
        gradient, kernel, strides, around, dimension_numbers=LAYOUTS, transpose_kernel=True
    )
    return of_input, _gradient_of_kernel(x, kernel, strides, padding, gradient)


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
        rows.append(jnp.tensordot(row, gradient, (0, 0)))
        # One row's pixels after the other, or the compiler holds those of all.
        x, rows[-1] = lax.optimization_barrier((x, rows[-1]))
    # Once, not in every kernel of the update that reads it: less to compile.
    return lax.optimization_barrier(jnp.stack(rows)).reshape(kernel.shape)
