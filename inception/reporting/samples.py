"""What the network sees in training: crops of a few images, as the run's config makes them."""

import functools

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from inception import UserError, pixels
from inception.data import cropping, decoding
from inception.evaluation import evaluate

ROWS, COLUMNS = 5, 8  # images; the whole one, then crops of it
TILE_PX = 112  # at most


def training_sampler(config: ConfigDict) -> cropping.Sampler:
    """The sampler that config.data describes."""
    return cropping.training_sampler(
        config.data.sampler,
        input_px=config.input_px,
        resize_px=config.data.resize_px,
        area_range=config.data.area_range,
        aspect_range=config.data.aspect_range,
        mirror=config.data.mirror,
        interpolations=config.data.interpolations,
        **config.data.get("randaugment", {}),  # runs of before had none
    )


def training_crops(config: ConfigDict) -> np.ndarray:
    """A row for each of 5 images of the training split: the image squashed, 7 crops of it.

    The crops are sampled, mirrored, distorted in colour and mixed, with those of the row above, as
    in training. Damaged images are passed over.

    Returns:
        uint8 [rows, 8, px, px, 3], px at most 112.

    Raises:
        UserError: the set cannot be opened, or has no image that is whole.
    """
    source = evaluate.open_split(config, config.data.train_split)
    sample = training_sampler(config)
    rng = np.random.default_rng(config.data.seed)
    rows: list[np.ndarray] = []
    for index in rng.permutation(len(source)).tolist():
        crops = np.empty((COLUMNS, config.input_px, config.input_px, 3), np.uint8)
        try:
            picture = decoding.open_picture(
                source[index][0],
                source.name(index),
                decoder=config.data.get("decoder", "exact"),  # runs of before had no other
                max_megapixels=config.data.max_megapixels,
            )
            picture.resize(crops[0], "area")
            for crop in crops[1:]:
                sample(picture, rng.random(cropping.UNIFORMS), crop)
        except (OSError, decoding.DamagedImageError):
            continue
        key = jax.random.fold_in(jax.random.key(config.data.seed), len(rows))
        distorted = pixels.distort_colors(
            jax.numpy.asarray(crops[1:]),
            jax.random.split(key, COLUMNS - 1),
            **config.data.colors.to_dict(),
        )
        crops[1:] = np.asarray(distorted).round()
        px = min(TILE_PX, config.input_px)
        rows.append(
            np.stack([cv2.resize(c, (px, px), interpolation=cv2.INTER_AREA) for c in crops])
        )
        if len(rows) == ROWS:
            break
    if not rows:
        raise UserError("every training image is damaged")
    tiles = np.stack(rows)
    mixup, cutmix = (config.data.get(knob, 0.0) for knob in ("mixup", "cutmix"))
    if mixup or cutmix:
        keys = jax.random.split(jax.random.key(config.data.seed), tiles[:, 1:].shape[:2])
        shares = functools.partial(pixels.own_share, px=px, mixup=mixup, cutmix=cutmix)
        own = np.asarray(jax.vmap(shares)(keys))
        others = np.roll(tiles, 1, axis=0)
        tiles[:, 1:] = (own * tiles[:, 1:] + (1 - own) * others[:, 1:]).round()
    return tiles
