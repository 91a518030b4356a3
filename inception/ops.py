"""Operations that the framework lacks."""

import jax
import jax.numpy as jnp


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
    energy = sum(padded[..., d : d + channels] for d in range(size))
    scale = jnp.power(k + alpha / size * energy, -beta)
    return x * scale.astype(x.dtype)
