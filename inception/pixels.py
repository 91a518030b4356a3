"""The device's half of the input: the train step distorts and normalises uint8 pixels."""

from typing import Any

import jax
import jax.numpy as jnp

NORMALIZATIONS = {
    # (mean, scale) of red, green and blue, for pixels of 0-255
    "mean": ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0)),
    "unit": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "symmetric": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}
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


def normalize(images: jax.Array, *, method: str) -> jax.Array:
    """Pixels of 0-255 -> the network's input, float32 [b, h, w, 3] (RGB).

    'mean': minus ImageNet's mean colour, range kept, as in the paper and Caffe; LRN has an effect
    in this range only. 'unit': unit variance as well. 'symmetric': [-1, 1].
    """
    mean, scale = (jnp.asarray(v)[None, None, None] for v in NORMALIZATIONS[method])
    return (images.astype(jnp.float32) - mean) / scale


def augment(
    batch: dict[str, Any],
    *,
    classes: int,
    color_key: jax.Array,
    mix_key: jax.Array,
    erase_key: jax.Array,
    colors: dict[str, float],
    mixing: dict[str, float],
    erasing: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Distorts colours, erases boxes, and mixes images and targets if the batch has 'other'.

    Args:
        batch: {'image': [b, px, px, 3] of 0-255, 'label': int32 [b], 'row': int [b]; 'other': the
            same three fields of the images to mix in}. All random numbers are functions of the
            keys and 'row'.
        colors: keyword arguments of `distort_colors`.
        mixing: keyword arguments of `mixing.own_share`.
        erasing: the share of images of which a box becomes ImageNet's mean colour.

    Returns:
        (images, float32 of 0-255, targets, float32 [b, classes])
    """
    if erasing or "other" in batch:
        from inception import mixing as masks  # few runs need it

    def keys(key: jax.Array, rows: jax.Array) -> jax.Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)

    def distorted(batch: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        images = distort_colors(batch["image"], keys(color_key, batch["row"]), **colors)
        if erasing:
            kept = masks.kept(keys(erase_key, batch["row"]), px=images.shape[1], share=erasing)
            mean = jnp.asarray(NORMALIZATIONS["mean"][0])[None, None, None]
            images = jnp.where(kept > 0, images, mean)
        return images, jax.nn.one_hot(batch["label"], classes)

    images, targets = distorted(batch)
    if "other" in batch:
        own = masks.own_share(keys(mix_key, batch["row"]), px=images.shape[1], **mixing)
        others, other_targets = distorted(batch["other"])
        images = own * images + (1 - own) * others
        share = own.mean((1, 2))
        targets = share * targets + (1 - share) * other_targets
    return images, targets


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
