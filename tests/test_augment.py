"""RandAugment's operations at their ends, and how they are drawn."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from inception import UserError
from inception.data import augment, images, sampling


@pytest.fixture
def image(rng: np.random.Generator) -> Image.Image:
    coarse = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC)


def test_there_are_the_papers_fourteen() -> None:
    assert set(augment.OPERATIONS) == {
        "identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize",
        "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(augment.OPERATIONS) - {"autocontrast", "equalize"}))
def test_an_amount_of_none_changes_nothing(image: Image.Image, name: str) -> None:
    np.testing.assert_array_equal(augment.OPERATIONS[name](image, 0.0), image)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_strongest(image: Image.Image, sign: int) -> None:
    """What Cubuk et al. have at a magnitude of 30, written out."""

    def at_most(name: str) -> np.ndarray:
        return np.asarray(augment.OPERATIONS[name](image, float(sign))).astype(int)

    pixels = np.asarray(image)
    for name, kind in (("brightness", "Brightness"), ("color", "Color"), ("contrast", "Contrast")):
        expected = getattr(ImageEnhance, kind)(image).enhance(1 + 0.9 * sign)
        np.testing.assert_array_equal(at_most(name), expected)
    shift = round(150 / 331 * 60)  # the content moves against the sign
    moved = at_most("translate_x")
    kept, seen = pixels[:, shift + 1 :], moved[:, : 60 - shift - 1]
    if sign < 0:
        kept, seen = pixels[:, : 60 - shift - 1], moved[:, shift + 1 :]
    assert np.abs(kept.astype(int)[:, 1:-1] - seen[:, 1:-1]).mean() < 6
    assert (moved[:, 0 if sign < 0 else -1] == augment.FILL).all()
    turned = image.rotate(30 * sign, Image.Resampling.BILINEAR, fillcolor=augment.FILL)
    np.testing.assert_array_equal(at_most("rotate"), turned)
    if sign > 0:
        np.testing.assert_array_equal(at_most("posterize"), pixels & 0xF0)
        np.testing.assert_array_equal(at_most("solarize"), ImageOps.invert(image))


def test_layers_are_drawn_alike_and_from_the_images_own_numbers(image: Image.Image) -> None:
    pixels = np.asarray(image)
    counts = dict.fromkeys(augment.OPERATIONS, 0)
    alone = {}
    for name in augment.OPERATIONS:
        for sign in (-1, 1) if name in augment.SIGNED else (1,):
            alone[np.asarray(augment.OPERATIONS[name](image, sign * 0.5)).tobytes()] = name
    assert len(alone) == len(augment.UNSIGNED) + 2 * len(augment.SIGNED)
    for seed in range(1400):
        out = pixels.copy()
        augment.rand_augment(out, np.random.default_rng(seed), layers=1, magnitude=15.0)
        counts[alone[out.tobytes()]] += 1
    assert all(60 < count < 145 for count in counts.values()), counts


def test_the_sampler_augments_the_crop_it_would_give(image: Image.Image) -> None:
    common = {
        "input_px": 32, "resize_px": 32, "area_range": (0.3, 1.0), "aspect_range": (0.75, 1.3),
        "mirror": True, "interpolations": ("bilinear",),
    }  # fmt: skip
    plain = sampling.training_sampler("inception", **common)
    sample = sampling.training_sampler("inception", **common, layers=2, magnitude=9.0)
    picture = images.open_picture(np.asarray(image), "it", decoder="exact", max_megapixels=1.0)
    changed = 0
    for u in np.random.default_rng(0).random((50, sampling.UNIFORMS)):
        crops = [np.empty((32, 32, 3), np.uint8) for _ in range(3)]
        for sampler, crop in zip((plain, sample, sample), crops, strict=True):
            sampler(picture, u, crop)
        np.testing.assert_array_equal(crops[1], crops[2])
        changed += not np.array_equal(crops[0], crops[1])
    assert 40 <= changed < 50


def test_a_magnitude_above_the_scale() -> None:
    with pytest.raises(UserError, match=r"config\.data\.randaugment\.magnitude=31\.0: .* most 30"):
        augment.check(31.0)
