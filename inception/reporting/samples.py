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
        crops[1:] = _distorted(crops[1:], config, row=len(rows))
        small = [cv2.resize(crop, (px, px), interpolation=cv2.INTER_AREA) for crop in crops]
        rows.append(np.stack(small))
        if len(rows) == ROWS:
            break
    if not rows:
        raise UserError("every training image is damaged")
    tiles = np.stack(rows)
    if config.data.mixup or config.data.cutmix:
        tiles[:, 1:] = _mixed(tiles[:, 1:], config)
    return tiles


def _distorted(crops: np.ndarray, config: ConfigDict, *, row: int) -> np.ndarray:
    key = jax.random.fold_in(jax.random.key(config.data.seed), row)
    keys = jax.random.split(key, len(crops))
    images = jax.numpy.asarray(crops)
    return np.asarray(pixels.distort_colors(images, keys, **config.data.colors)).round()


def _mixed(tiles: np.ndarray, config: ConfigDict) -> np.ndarray:
    """Each crop, [rows, 7, px, px, 3], mixed with the one in the row above."""
    keys = jax.random.split(jax.random.key(config.data.seed), tiles.shape[:2])
    mixup, cutmix = config.data.mixup, config.data.cutmix
    shares = functools.partial(pixels.own_share, px=tiles.shape[2], mixup=mixup, cutmix=cutmix)
    own = np.asarray(jax.vmap(shares)(keys))
    return (own * tiles + (1 - own) * np.roll(tiles, 1, axis=0)).round()
