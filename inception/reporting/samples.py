"""What the network sees in training: crops of a few images, as the run's config makes them."""

import functools

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from inception import UserError, pixels
from inception.data import cropping, decoding, pipeline

ROWS, COLUMNS = 5, 8  # images; each whole, then its crops
TILE_PX = 112  # the largest side of a tile


def training_crops(config: ConfigDict) -> np.ndarray:
    """A row for each of 5 images of the training split: the squashed image, then 7 crops of it.

    The crops are drawn, distorted in colour and mixed with those of the row above, as in training.
    Damaged images are skipped.

    Returns:
        uint8 [rows, 8, px, px, 3], px at most 112.

    Raises:
        UserError: the set cannot be opened, or all its images are damaged.
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
    batch = {"image": crops, "label": np.zeros(len(crops), int), "row": np.arange(len(crops))}
    mixing = {"mixup": config.data.mixup, "cutmix": config.data.cutmix}
    if any(mixing.values()):
        batch["other"] = jax.tree.map(lambda x: np.roll(x, COLUMNS - 1, axis=0), batch)
    names = ("color_key", "mix_key", "erase_key")
    drawn = jax.random.split(jax.random.key(config.data.seed), 3)
    keys = dict(zip(names, drawn, strict=True))
    distortions = {"colors": config.data.colors, "mixing": mixing, "erasing": config.data.erasing}
    seen, _ = pixels.augment(batch, classes=1, **distortions, **keys)
    tiles[:, 1:] = np.asarray(seen).round().reshape(tiles[:, 1:].shape)
    shrink = functools.partial(cv2.resize, dsize=(px, px), interpolation=cv2.INTER_AREA)
    return np.stack([[shrink(tile) for tile in row] for row in tiles])
