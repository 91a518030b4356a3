"""The page's pictures of the training input."""

import pathlib

import numpy as np

from inception.reporting import figures, samples
from tests import tiny


def test_crops_are_a_function_of_the_config() -> None:
    config = tiny.config("--config.data.source=digits", "--config.model.classes=10")
    crops = samples.training_crops(config)
    px = config.input_px
    assert crops.shape == (5, 8, px, px, 3) and crops.dtype == np.uint8
    np.testing.assert_array_equal(crops, samples.training_crops(config))
    assert len({crop.tobytes() for crop in crops.reshape(40, -1)}) == 40
    other = samples.training_crops(
        tiny.config("--config.data.source=digits", "--config.data.seed=1")
    )
    assert (other != crops).any()
    assert figures.montage(crops).shape == (5 * (px + 1), 8 * (px + 1), 3)


def test_mixed_crops_have_a_part_of_the_row_above() -> None:
    plain, mixed = (
        samples.training_crops(tiny.config("--config.data.source=digits", *more))
        for more in ((), ("--config.data.cutmix=1",))
    )
    np.testing.assert_array_equal(plain[:, 0], mixed[:, 0])
    above = np.roll(plain, 1, axis=0)[:, 1:]
    own = mixed[:, 1:] == plain[:, 1:]
    assert ((mixed[:, 1:] == above) | own).all() and 0.3 < own.all(-1).mean() < 0.95


def test_damaged_images_are_passed_over(photos: pathlib.Path) -> None:
    overrides = ["--config.data.source=folder", f"--config.data.path={photos}"]
    config = tiny.config(*overrides)
    spoilt = sorted(photos.rglob("*.*"))[::2]
    for path in spoilt:
        path.write_bytes(b"damaged")
    assert len(samples.training_crops(config)) == 5
    for path in photos.rglob("*.*"):
        path.write_bytes(b"damaged")
    with tiny.refused("every training image is damaged"):
        samples.training_crops(config)
    with tiny.refused(r"config\.data\.path=x"):
        samples.training_crops(tiny.config("--config.data.source=folder", "--config.data.path=x"))
