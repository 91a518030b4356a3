"""RandAugment's operations at their ends, and how they are drawn."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from inception.data import cropping, decoding, pipeline, randaugment
from tests import tiny


@pytest.fixture
def image(rng: np.random.Generator) -> Image.Image:
    coarse = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC)


def test_there_are_the_papers_fourteen() -> None:
    assert set(randaugment.OPERATIONS) == {
        "identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize",
        "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(randaugment.OPERATIONS) - {"autocontrast", "equalize"}))
def test_an_amount_of_none_changes_nothing(image: Image.Image, name: str) -> None:
    np.testing.assert_array_equal(randaugment.OPERATIONS[name](image, 0.0), image)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_strongest(image: Image.Image, sign: int) -> None:
    """torchvision's ends of the ranges, written out."""
    strongest = {
        name: np.asarray(operation(image, float(sign)))
        for name, operation in randaugment.OPERATIONS.items()
        if sign > 0 or name in randaugment.SIGNED
    }
    for name in ("Brightness", "Color", "Contrast", "Sharpness"):
        expected = getattr(ImageEnhance, name)(image).enhance(1 + 0.9 * sign)
        np.testing.assert_array_equal(strongest[name.lower()], expected)
    turned = image.rotate(30 * sign, Image.Resampling.BILINEAR, fillcolor=randaugment.FILL)
    np.testing.assert_array_equal(strongest["rotate"], turned)
    if sign > 0:
        np.testing.assert_array_equal(strongest["posterize"], np.asarray(image) & 0xF0)
        np.testing.assert_array_equal(strongest["solarize"], ImageOps.invert(image))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("name", "right", "down"),
    [
        ("shear_x", -0.3 * 50, 0),  # a dot at (60, 50) of 120x100 px
        ("shear_y", 0, -0.3 * 60),
        ("translate_x", -150 / 331 * 120, 0),
        ("translate_y", 0, -150 / 331 * 100),
    ],
)
def test_where_a_dot_goes(name: str, right: float, down: float, sign: int) -> None:
    scene = np.zeros((100, 120, 3), np.uint8)
    scene[48:53, 58:63] = 255
    moved = randaugment.OPERATIONS[name](Image.fromarray(scene), float(sign))
    lit = np.asarray(moved)[..., 0] > 180  # what comes in from outside has 123
    rows, columns = np.nonzero(lit)
    assert abs(columns.mean() - 60 - sign * right) < 1 and abs(rows.mean() - 50 - sign * down) < 1


def test_layers_are_drawn_alike_and_from_the_images_own_numbers(image: Image.Image) -> None:
    pixels = np.asarray(image)
    counts = dict.fromkeys(randaugment.OPERATIONS, 0)
    alone = {}
    for name in randaugment.OPERATIONS:
        for sign in (-1, 1) if name in randaugment.SIGNED else (1,):
            alone[np.asarray(randaugment.OPERATIONS[name](image, sign * 0.5)).tobytes()] = name
    assert len(alone) == len(randaugment.UNSIGNED) + 2 * len(randaugment.SIGNED)
    for seed in range(1400):
        out = pixels.copy()
        randaugment.rand_augment(out, np.random.default_rng(seed), layers=1, magnitude=5.0)
        counts[alone[out.tobytes()]] += 1
    assert all(60 < count < 145 for count in counts.values()), counts


def test_the_pipeline_augments_the_crop_it_would_give(image: Image.Image) -> None:
    plain, augmented = (
        pipeline.TrainingPipeline(
            tiny.config("--config.data.area_range=(.3,1.)", "--config.data.mirror=True", *more), []
        )
        for more in ((), ("--config.data.randaugment.layers=2",))
    )
    picture = decoding.ExactPicture(np.asarray(image), "it", max_megapixels=1.0)
    changed = 0
    for u in np.random.default_rng(0).random((50, cropping.UNIFORMS)):
        crops = [np.empty((32, 32, 3), np.uint8) for _ in range(3)]
        for maker, crop in zip((plain, augmented, augmented), crops, strict=True):
            maker.crop(picture, u, crop)
        np.testing.assert_array_equal(crops[1], crops[2])
        changed += not np.array_equal(crops[0], crops[1])
    assert 40 <= changed < 50
