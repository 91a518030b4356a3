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
        colors: keyword arguments of `colors.distort_colors`.
        mixing: keyword arguments of `mixing.own_share`.
        erasing: the share of images of which a box becomes ImageNet's mean colour.

    Returns:
        (images, float32 of 0-255, targets, float32 [b, classes])
    """
    if erasing or "other" in batch:
        from inception import mixing as masks  # few runs need it
    if any(colors.values()):
        from inception.colors import distort_colors

    def keys(key: jax.Array, rows: jax.Array) -> jax.Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)

    def distorted(batch: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        images = batch["image"].astype(jnp.float32)
        if any(colors.values()):
            images = distort_colors(images, keys(color_key, batch["row"]), **colors)
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
