"""Distortions of colour, for training on photos: part of `pixels.augment`."""

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's
# Krizhevsky et al. (2012), section 4.1: standard deviations and principal directions (the
# columns) of ImageNet's colours, for pixels of 0-1.
LIGHTING_STD = (0.2175, 0.0188, 0.0045)
LIGHTING_DIRECTIONS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
RGB_TO_YIQ = (
    LUMA,
    (0.595716, -0.274453, -0.321263),
    (0.211456, -0.522591, 0.311135),
)


def _blend(image: jax.Array, other: jax.Array | float, factor: jax.Array) -> jax.Array:
    return jnp.clip(other + factor * (image - other), 0.0, 255.0)


def _grey(image: jax.Array) -> jax.Array:
    return (image * jnp.asarray(LUMA)[None, None]).sum(-1, keepdims=True)


def adjust_brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """factor 0: black, 1: unchanged. [h, w, 3] of 0-255."""
    return _blend(image, 0.0, factor)


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """factor 0: the mean grey, 1: unchanged. [h, w, 3] of 0-255."""
    return _blend(image, _grey(image).mean(), factor)


def adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """factor 0: grey, 1: unchanged. [h, w, 3] of 0-255."""
    return _blend(image, _grey(image), factor)


def adjust_hue(image: jax.Array, turns: jax.Array) -> jax.Array:
    """Rotates the colours about the grey axis in YIQ by `turns` of a circle. [h, w, 3] of 0-255."""
    cos, sin = jnp.cos(2 * jnp.pi * turns), jnp.sin(2 * jnp.pi * turns)
    rotation = jnp.eye(3).at[1:, 1:].set(jnp.stack([cos, -sin, sin, cos]).reshape(2, 2))
    to_yiq = jnp.asarray(RGB_TO_YIQ)
    matrix = jnp.linalg.inv(to_yiq) @ rotation @ to_yiq
    return jnp.clip(jnp.einsum("hwc,dc->hwd", image, matrix), 0.0, 255.0)


def add_lighting(image: jax.Array, amounts: jax.Array) -> jax.Array:
    """Krizhevsky's lighting noise: `amounts` [3] along the principal directions. 0-255."""
    shift = jnp.asarray(LIGHTING_DIRECTIONS) @ (amounts * jnp.asarray(LIGHTING_STD)) * 255
    return jnp.clip(image + shift[None, None], 0.0, 255.0)


def distort_colors(
    images: jax.Array,
    keys: jax.Array,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    lighting: float = 0.0,
) -> jax.Array:
    """Photometric distortions after Howard (2013), drawn for each image, in random order.

    Brightness, contrast and saturation are multiplied by a factor from [1 - s, 1 + s], s being
    the argument; hue turns by [-hue, hue] of a circle. Lighting, Krizhevsky's noise of this
    standard deviation, comes last. Distortions of strength 0 are omitted. Paper, section 6.

    Args:
        images: [b, h, w, 3] of 0-255, any dtype.
        keys: [b], a key for each image.

    Returns:
        float32 [b, h, w, 3] of 0-255.
    """
    images = images.astype(jnp.float32)
    adjustments = {  # (factor or turn that changes nothing, strength)
        adjust_brightness: (1.0, brightness),
        adjust_contrast: (1.0, contrast),
        adjust_saturation: (1.0, saturation),
        adjust_hue: (0.0, hue),
    }
    used = {adjust: numbers for adjust, numbers in adjustments.items() if numbers[1] > 0}

    def distort(image: jax.Array, key: jax.Array) -> jax.Array:
        order_key, factor_key, light_key = jax.random.split(key, 3)
        if used:
            u = jax.random.uniform(factor_key, (len(used),), minval=-1.0, maxval=1.0)
            centres, strengths = jnp.asarray(list(used.values())).T
            factors = centres + u * strengths
            for kind in jax.random.permutation(order_key, len(used)):
                image = jax.lax.switch(kind, list(used), image, factors[kind])
        if lighting > 0:
            image = add_lighting(image, lighting * jax.random.normal(light_key, (3,)))
        return image

    return jax.vmap(distort)(images, keys) if used or lighting > 0 else images
