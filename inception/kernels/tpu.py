"""Forms for TPUs: LRN."""

import jax
import jax.numpy as jnp
from jax import lax

from inception.ops import LRN_ALPHA, LRN_K, LRN_SIZE, to_three_quarters


def _sum_of_neighbours(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The sum of five neighbouring channels as a product with a 0-1 matrix; float32.

    Channels lie along the lanes of a TPU's registers, and a shift along lanes is slow.

    NOTE: an infinity makes every channel NaN, because 0 times infinity is NaN.

    Args:
        dtype: the layer's; a bfloat16 layer rounds the product's factors to bfloat16.
    """
    channel = jnp.arange(x.shape[-1])
    near = jnp.abs(channel[:, None] - channel[None]) <= LRN_SIZE // 2
    exact = lax.Precision.HIGHEST if dtype == jnp.float32 else None
    return jnp.einsum("...c,cd->...d", x, near.astype(jnp.float32), precision=exact)


def _energy(x: jax.Array) -> jax.Array:
    squares = jnp.square(x.astype(jnp.float32))
    return LRN_K + LRN_ALPHA / LRN_SIZE * _sum_of_neighbours(squares, x.dtype)


@jax.custom_vjp
def local_response_normalization(x: jax.Array) -> jax.Array:
    """LRN whose gradient stores only the input.

    Forward and gradient of 128 images in bfloat16 on a v5e, in million cycles by the compiler's
    estimate: 7.4 at 56x56x192 (19.2 with shifted views), 1.7 at 56x56x64 (6.5).
    """
    return (x.astype(jnp.float32) / to_three_quarters(_energy(x))).astype(x.dtype)


def _lrn_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return local_response_normalization(x), x


def _lrn_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    x, gradient = lax.optimization_barrier((x, gradient))  # else XLA stores the energy
    scale = _energy(x)
    wide, own = x.astype(jnp.float32), gradient.astype(jnp.float32) / to_three_quarters(scale)
    others = _sum_of_neighbours(own * wide / scale, x.dtype)
    return ((own - 2 * 0.75 * LRN_ALPHA / LRN_SIZE * wide * others).astype(x.dtype),)


local_response_normalization.defvjp(_lrn_forward, _lrn_backward)
