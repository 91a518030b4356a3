"""Forms for GPUs, where the bytes moved through memory decide the time.

docs/reasons/accelerators.md lists the effect of each form on a training step of v1, batch 256,
bfloat16, compiled for an H100.
"""

import functools
import operator
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from inception.kernels.lean import max_and_argmax
from inception.ops import LRN_ALPHA, LRN_SIZE, energy, sum_of_neighbours, to_three_quarters


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, stride: int, window: int = 3) -> jax.Array:
    """Max pool from shifted views; its gradient from the argmax of each window.

    XLA compiles select-and-scatter to tuples of value and index in memory and a scatter with
    atomics; it computes pools of bfloat16 in float32.
    """
    return max_and_argmax(x, stride, window)[0]


def _max_pool_forward(x: jax.Array, stride: int, window: int) -> tuple[jax.Array, Any]:
    maxima, argmax = max_and_argmax(x, stride, window)
    return maxima, (argmax, jnp.zeros((0, *x.shape[1:3]), x.dtype))  # carries x's size and dtype


def _max_pool_backward(stride: int, window: int, saved: Any, gradient: jax.Array) -> tuple:
    argmax, like = saved
    # Without the barrier, each kernel that reads these arrays recomputes them.
    argmax, gradient = lax.optimization_barrier((argmax, gradient))
    wide, zero = gradient.astype(jnp.float32), jnp.zeros((), jnp.float32)
    sizes = like.shape[1:]
    around = lax.padtype_to_pads(sizes, (window, window), (stride, stride), "SAME")

    def of_offset(offset: int) -> jax.Array:
        """The gradients of the windows with the maximum at this offset, moved to its position."""
        moves = [(0, 0, 0)]
        for n, outputs, (before, _), at in zip(
            sizes, gradient.shape[1:3], around, divmod(offset, window), strict=True
        ):
            first = at - before
            moves.append((first, n - first - (outputs - 1) * stride - 1, stride - 1))
        return lax.pad(jnp.where(argmax == offset, wide, zero), zero, [*moves, (0, 0, 0)])

    total = functools.reduce(operator.add, map(of_offset, range(window**2)))
    return (total.astype(like.dtype),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@jax.custom_vjp
def local_response_normalization(x: jax.Array) -> jax.Array:
    """LRN whose gradient stores only the input, and writes its terms in the input's dtype."""
    return (x.astype(jnp.float32) / to_three_quarters(energy(x))).astype(x.dtype)


def _lrn_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Without the barrier, the compiler stores this energy for the gradient.
    return local_response_normalization(lax.optimization_barrier(x)), x


def _lrn_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    scale, wide = energy(x), x.astype(jnp.float32)
    part = gradient.astype(jnp.float32) * wide / (scale * to_three_quarters(scale))
    # The barrier makes two kernels: one writes these, the next reads five neighbours of `part`.
    part, gradient = lax.optimization_barrier((part.astype(x.dtype), gradient))
    others = sum_of_neighbours(part.astype(jnp.float32))
    own = gradient.astype(jnp.float32) / to_three_quarters(scale)
    return ((own - 2 * 0.75 * LRN_ALPHA / LRN_SIZE * wide * others).astype(x.dtype),)


local_response_normalization.defvjp(_lrn_forward, _lrn_backward)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """ReLU whose gradient stores only the output, which the next layer stores anyway."""
    return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = lax.optimization_barrier(relu(x))  # else the compiler also stores x, to recompute y
    return y, y


def _relu_backward(y: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def side_by_side(
    module: Any, x: jax.Array, train: bool, filters: Mapping[str, int]
) -> list[jax.Array]:
    """In training, one convolution with all filters: it reads x and writes its gradient once.

    On a TPU v5e a step of v1 moves 0.94 of the bytes, with 1.03 of the temporary memory.
    """
    if not train or len(filters) == 1 or module.is_initializing():
        return [module.conv(n, 1, name=name)(x, train) for name, n in filters.items()]
    kernels = [module.get_variable("params", name)["Conv_0"]["kernel"] for name in filters]
    ends = np.cumsum([kernel.shape[-1] for kernel in kernels]).tolist()

    def parts(array: jax.Array) -> list[jax.Array]:
        return jnp.split(array, ends[:-1], axis=-1)

    def join(variables: Any) -> Any:
        """{kind: {name: arrays}} -> {kind: {"joined": arrays}}; channels come last."""
        return {
            kind: {"joined": jax.tree.map(_joined, *map(arrays.get, filters))}
            for kind, arrays in variables.items()
            if arrays
        }

    def split(variables: Any) -> Any:
        return {
            kind: {
                name: jax.tree.map(lambda array, i=i: parts(array)[i], arrays["joined"])
                for i, name in enumerate(filters)
            }
            for kind, arrays in variables.items()
            if arrays
        }

    def together(module: Any, x: jax.Array) -> jax.Array:
        return module.conv(ends[-1], 1, width=1.0, name="joined")(x, train)

    kinds = ("params", "batch_stats")
    return parts(nn.map_variables(together, kinds, join, split, mutable=True)(module, x))


def _joined(*arrays: jax.Array) -> jax.Array:
    return jnp.concatenate(arrays, axis=-1)


def to_update(gradients: Any) -> Any:
    """The gradients row by row in memory, written once.

    Otherwise XLA computes each update in the layout of its convolution and copies the new
    parameters, momentum and average back: three kernels for every array.
    """

    def row_by_row(array: jax.Array) -> jax.Array:
        return with_layout_constraint(array, Layout(tuple(range(array.ndim))))

    return lax.optimization_barrier(jax.tree.map(row_by_row, gradients))
