"""Max pools with the position of each maximum, which their gradients need on CPUs and GPUs."""

import jax
import jax.numpy as jnp
from jax import lax


def max_and_argmax(x: jax.Array, stride: int, window: int) -> tuple[jax.Array, jax.Array]:
    """The maxima, and which value of its window each of them is, int8, row by row."""
    b, h, w, c = x.shape
    out_h, out_w = -(-h // stride), -(-w // stride)
    around = lax.padtype_to_pads((h, w), (window, window), (stride, stride), "SAME")
    padding = [(before, after, 0) for before, after in ((0, 0), *around, (0, 0))]
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)

    def view(offset: int) -> jax.Array:
        i, j = divmod(offset, window)
        stop = (b, i + (out_h - 1) * stride + 1, j + (out_w - 1) * stride + 1, c)
        return lax.slice(padded, (0, i, j, 0), stop, (1, stride, stride, 1))

    maxima = view(0)
    argmax = jnp.zeros(maxima.shape, jnp.int8)
    for offset in range(1, window**2):
        candidate = view(offset)
        argmax = jnp.where(candidate > maxima, jnp.int8(offset), argmax)
        maxima = jnp.maximum(maxima, candidate)
    return maxima, argmax
