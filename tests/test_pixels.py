"""What the device does to pixels, against Pillow and numpy."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image, ImageEnhance

from inception import colors, mixing, pixels

# As the step has them: a program, where one operation after another takes ten times the time.
STRENGTHS = ("brightness", "contrast", "saturation", "hue", "lighting")
distort_colors = jax.jit(colors.distort_colors, static_argnames=STRENGTHS)
own_share = jax.jit(mixing.own_share, static_argnames=("px", "mixup", "cutmix"))


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (12, 15, 3)).astype(np.uint8)


def test_normalisations(image: np.ndarray) -> None:
    batch = jnp.asarray(image)[None]
    mean = np.asarray(pixels.normalize(batch, method="mean"))[0]
    np.testing.assert_array_equal(mean, image.astype(np.float32) - [123, 117, 104])  # Caffe, as RGB
    unit = np.asarray(pixels.normalize(batch, method="unit"))[0]
    expected = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(unit, expected, atol=1e-5)
    symmetric = np.asarray(pixels.normalize(batch, method="symmetric"))
    assert symmetric.min() >= -1 and symmetric.max() <= 1
    with pytest.raises(KeyError):
        pixels.normalize(batch, method="x")


@pytest.mark.parametrize(
    ("ours", "pillows"),
    [
        (colors.adjust_brightness, ImageEnhance.Brightness),
        (colors.adjust_contrast, ImageEnhance.Contrast),
        (colors.adjust_saturation, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.5])
def test_adjustments_are_pillows(image: np.ndarray, ours, pillows, factor: float) -> None:
    got = ours(jnp.asarray(image, jnp.float32), jnp.float32(factor))
    expected = np.asarray(pillows(Image.fromarray(image)).enhance(factor), np.float32)
    np.testing.assert_allclose(got, expected, atol=1.6)  # Pillow rounds, twice


def test_hue_turns_red_to_green_and_keeps_grey_and_luma() -> None:
    grey = jnp.full((1, 1, 3), 90.0)
    np.testing.assert_allclose(colors.adjust_hue(grey, jnp.float32(0.3)), grey, atol=1e-3)
    color = jnp.asarray([[[150.0, 100.0, 110.0]]])
    turned = np.asarray(colors.adjust_hue(color, jnp.float32(0.25)))[0, 0]
    assert (
        abs(turned @ np.asarray(colors.LUMA) - np.asarray(color)[0, 0] @ np.asarray(colors.LUMA))
        < 0.1
    )
    _, i, q = colorsys.rgb_to_yiq(*(np.asarray(color)[0, 0] / 255))
    _, i2, q2 = colorsys.rgb_to_yiq(*(turned / 255))
    assert np.hypot(i2, q2) == pytest.approx(np.hypot(i, q), rel=0.05)
    assert i * i2 + q * q2 == pytest.approx(0, abs=1e-3)  # a quarter turn


def test_lighting_is_krizhevskys(image: np.ndarray) -> None:
    amounts = jnp.asarray([0.1, -0.2, 0.05])
    got = colors.add_lighting(jnp.asarray(image, jnp.float32), amounts)
    shift = (
        np.asarray(colors.LIGHTING_DIRECTIONS) @ (np.asarray(amounts) * colors.LIGHTING_STD) * 255
    )
    np.testing.assert_allclose(got, np.clip(image + shift, 0, 255), atol=1e-3)
    directions = np.asarray(colors.LIGHTING_DIRECTIONS)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-3)


def test_each_image_is_distorted_its_own_way_within_bounds(rng: np.random.Generator) -> None:
    one = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    batch = jnp.asarray(np.stack([one] * 16))
    strengths = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.1, "lighting": 0.1}
    got = np.asarray(distort_colors(batch, jax.random.split(jax.random.key(0), 16), **strengths))
    assert got.shape == batch.shape and got.dtype == np.float32
    assert got.min() >= 0 and got.max() <= 255
    assert len({row.tobytes() for row in got}) == 16
    again = np.asarray(distort_colors(batch, jax.random.split(jax.random.key(0), 16), **strengths))
    np.testing.assert_array_equal(got, again)


def test_brightness_alone_multiplies_by_a_factor_from_the_range() -> None:
    batch = jnp.full((200, 1, 1, 3), 100, jnp.uint8)
    got = np.asarray(
        distort_colors(batch, jax.random.split(jax.random.key(1), 200), brightness=0.5)
    )[:, 0, 0, 0]
    assert got.min() >= 50 and got.max() <= 150
    assert got.min() < 55 and got.max() > 145


def test_distortions_are_a_plain_references_in_random_order(rng: np.random.Generator) -> None:
    """The same draws, applied one image at a time in numpy."""
    batch = rng.integers(0, 256, (24, 4, 5, 3)).astype(np.uint8)
    keys = jax.random.split(jax.random.key(2), 24)
    got = distort_colors(
        jnp.asarray(batch), keys, brightness=0.5, contrast=0.4, saturation=0.3, lighting=0.1
    )
    luma = np.asarray([0.299, 0.587, 0.114])

    def adjust(image: np.ndarray, kind: int, factor: float) -> np.ndarray:
        grey = (image @ luma)[..., None]
        other = (0.0, grey.mean(), grey)[kind]
        return np.clip(other + factor * (image - other), 0, 255)

    orders = set()
    for image, image_key, result in zip(batch, keys, got, strict=True):
        order_key, factor_key, light_key = jax.random.split(image_key, 3)
        u = np.asarray(jax.random.uniform(factor_key, (3,), minval=-1.0, maxval=1.0))
        order = np.asarray(jax.random.permutation(order_key, 3)).tolist()
        orders.add(tuple(order))
        expected = image.astype(np.float64)
        for kind in order:
            expected = adjust(expected, kind, 1 + u[kind] * (0.5, 0.4, 0.3)[kind])
        amounts = 0.1 * np.asarray(jax.random.normal(light_key, (3,)))
        shift = np.asarray(colors.LIGHTING_DIRECTIONS) @ (amounts * colors.LIGHTING_STD) * 255
        np.testing.assert_allclose(result, np.clip(expected + shift, 0, 255), atol=0.01)
    assert len(orders) == 6


def test_no_strength_leaves_the_pixels_alone(image: np.ndarray) -> None:
    got = distort_colors(jnp.asarray(image)[None], jax.random.key(0)[None])
    np.testing.assert_array_equal(got[0], image)


def test_mixup_keeps_one_share_everywhere_and_cutmix_cuts_a_box() -> None:
    keys = jax.random.split(jax.random.key(3), 2000)
    mixed = np.asarray(own_share(keys, px=8, mixup=0.2, cutmix=0.0))
    assert mixed.shape == (2000, 8, 8, 1) and (np.ptp(mixed, (1, 2)) == 0).all()
    # Beta(.2, .2): mean 1/2, variance 1 / (4 * 1.4).
    shares = mixed[:, 0, 0, 0]
    assert abs(shares.mean() - 0.5) < 0.03 and abs(shares.var() - 1 / 5.6) < 0.01

    cut = np.asarray(own_share(keys, px=64, mixup=0.0, cutmix=1.0))[..., 0]
    assert set(np.unique(cut)) == {0, 1}
    for other in 1 - cut:
        rows, columns = np.flatnonzero(other.any(1)), np.flatnonzero(other.any(0))
        assert other.sum() == len(rows) * len(columns)  # nothing else than one box
        if len(rows):
            assert len(rows) == np.ptp(rows) + 1 and len(columns) == np.ptp(columns) + 1
    # Beta(1, 1) is uniform; a box of area a at a uniform place has by its sides' parts inside
    # (1 - sqrt(a) / 4) of each: the mean over a of a * (1 - sqrt(a) / 4)^2.
    a = np.linspace(0, 1, 10_001)
    expected = np.mean(a * (1 - np.sqrt(a) / 4) ** 2)
    assert abs((1 - cut).mean() - expected) < 0.02

    both = np.asarray(own_share(keys, px=8, mixup=0.2, cutmix=1.0))
    fractions = ((both > 0) & (both < 1)).any((1, 2, 3))
    assert 0.35 < fractions.mean() < 0.65


@pytest.mark.parametrize("a", [0.1, 0.2, 1.0, 3.0])
def test_shares_are_of_the_beta_distribution(a: float) -> None:
    keys = jax.random.split(jax.random.key(0), 100_000)
    shares = np.asarray(own_share(keys, px=1, mixup=a, cutmix=0.0)).ravel()
    x = np.linspace(0.001, 0.999, 50)
    found = np.searchsorted(np.sort(shares), x) / len(shares)
    assert np.abs(found - scipy.stats.beta(a, a).cdf(x)).max() < 0.006


def test_shares_take_no_loop_that_would_ask_all_devices_for_its_end() -> None:
    program = jax.make_jaxpr(lambda keys: mixing.own_share(keys, px=4, mixup=0.1, cutmix=1.0))
    assert "while" not in str(program(jax.random.split(jax.random.key(0), 4)))


@pytest.mark.slow
def test_augment_mixes_distorted_images_and_their_targets(image: np.ndarray) -> None:
    """Each by its own row's keys, whichever batch it stands in."""
    color_key, mix_key, erase_key = jax.random.split(jax.random.key(0), 3)
    images = jnp.asarray(np.stack([image[:12, :12], image[:12, 3:]]))
    batch = {"image": images, "label": jnp.array([2, 0]), "row": jnp.array([5, 4])}
    other = jax.tree.map(lambda x: x[::-1], batch)
    choices = {"classes": 3, "color_key": color_key, "mix_key": mix_key, "erase_key": erase_key}
    choices |= {"colors": {"brightness": 0.5}, "mixing": {"mixup": 0.5, "cutmix": 0.0}}
    plain, targets = pixels.augment(batch, **choices)
    mixed, mixed_targets = pixels.augment({**batch, "other": other}, **choices)
    keys = jax.vmap(lambda row: jax.random.fold_in(mix_key, row))(batch["row"])
    own = np.asarray(own_share(keys, px=12, mixup=0.5, cutmix=0.0))
    np.testing.assert_array_equal(targets, [[0, 0, 1], [1, 0, 0]])
    expected = own * plain + (1 - own) * plain[::-1]
    np.testing.assert_allclose(mixed, expected, atol=1e-4)
    shares = own.mean((1, 2))
    np.testing.assert_allclose(
        mixed_targets, shares * targets + (1 - shares) * targets[::-1], atol=1e-6
    )
    assert shares.min() > 0 and shares.max() < 1
    with_one, _ = pixels.augment(jax.tree.map(lambda x: x[1:], batch), **choices)
    np.testing.assert_array_equal(with_one, plain[1:])


def test_erasing_cuts_one_box_of_a_share_of_the_images() -> None:
    kept = jax.jit(mixing.kept, static_argnames=("px", "share"))
    masks = np.asarray(kept(jax.random.split(jax.random.key(3), 2000), px=64, share=0.25))[..., 0]
    assert set(np.unique(masks)) == {0, 1}
    areas = (1 - masks).mean((1, 2))
    assert abs((areas > 0).mean() - 0.25) < 0.03
    assert areas[areas > 0].min() > 0.01 and areas.max() < 0.45
    for box in 1 - masks[areas > 0]:
        assert box.sum() == box.any(0).sum() * box.any(1).sum()


def test_an_erased_box_has_the_mean_colour_and_the_rest_stays(image: np.ndarray) -> None:
    batch = {"image": image[None], "label": np.zeros(1, np.int32), "row": np.zeros(1, np.int32)}
    names = ("color_key", "mix_key", "erase_key")
    keys = {name: jax.random.key(i) for i, name in enumerate(names)}
    square = {**batch, "image": image[None, :12, :12]}
    got, _ = pixels.augment(square, classes=2, colors={}, mixing={}, erasing=1.0, **keys)
    changed = (np.asarray(got[0]) != square["image"][0]).any(-1)
    assert 0 < changed.mean() < 0.5
    mean = pixels.NORMALIZATIONS["mean"][0]
    np.testing.assert_array_equal(np.asarray(got[0])[changed], np.tile(mean, (changed.sum(), 1)))
