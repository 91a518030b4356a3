"""What the network sees in training: crops of a few images, as the run's config makes them."""

import functools

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from inception import UserError, pixels
from inception.data import cropping, decoding, pipeline

ROWS, COLUMNS = 5, 8  # images; the whole one, then crops of it
TILE_PX = 112  # at most


def training_crops(config: ConfigDict) -> np.ndarray:
    """A row for each of 5 images of the training split: the image squashed, 7 crops of it.

    The crops are made, distorted in colour and mixed, with those of the row above, as in training.
    Damaged images are passed over.

    Returns:
        uint8 [rows, 8, px, px, 3], px at most 112.

    Raises:
        UserError: the set cannot be opened, or has no whole image.
    """
    source = pipeline.open_split(config, config.data.train_split)
    training = pipeline.TrainingPipeline(config, source)
    rng = np.random.default_rng(config.data.seed)
    px = min(TILE_PX, config.input_px)
    rows: list[np.ndarray] = []
    for index in rng.permutation(len(source)).tolist():
        crops = np.empty((COLUMNS, config.input_px, config.input_px, 3), np.uint8)
        try:
            picture, _ = training.open(index)
            picture.resize(crops[0], "area")
            for crop in crops[1:]:
                training.crop(picture, rng.random(cropping.UNIFORMS), crop)
        except decoding.DamagedImageError:
            continue
        rows.append(crops)
        if len(rows) == ROWS:
            break
    if not rows:
        raise UserError("every training image is damaged")
    tiles = np.stack(rows)
    crops = tiles[:, 1:].reshape(-1, *tiles.shape[2:])
    keys = jax.random.split(jax.random.key(config.data.seed), (2, len(crops)))
    seen = pixels.distort_colors(jax.numpy.asarray(crops), keys[0], **config.data.colors)
    mixup, cutmix = config.data.mixup, config.data.cutmix
    if mixup or cutmix:
        own = pixels.own_share(keys[1], px=config.input_px, mixup=mixup, cutmix=cutmix)
        seen = own * seen + (1 - own) * jax.numpy.roll(seen, COLUMNS - 1, axis=0)
    tiles[:, 1:] = np.asarray(seen).round().reshape(tiles[:, 1:].shape)
    shrink = functools.partial(cv2.resize, dsize=(px, px), interpolation=cv2.INTER_AREA)
    return np.stack([[shrink(tile) for tile in row] for row in tiles])
