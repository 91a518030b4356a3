"""What the network sees: the paper's ranges, Pillow as the reference, 144 crops that are 144."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from inception.data import cropping, decoding
from inception.knobs import KNOBS
from tests import tiny

PAPER = {"area_range": (0.08, 1.0), "aspect_range": (3 / 4, 4 / 3)}


@hypothesis.given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_papers_crop(width: int, height: int, seed: int) -> None:
    uniforms = np.random.default_rng(seed).random(cropping.UNIFORMS)
    left, top, right, bottom = cropping.inception_crop(width, height, uniforms, **PAPER)
    assert 0 <= left < right <= width + 1e-6
    assert 0 <= top < bottom <= height + 1e-6
    aspect = (right - left) / (bottom - top)
    assert 3 / 4 - 1e-6 <= aspect <= 4 / 3 + 1e-6
    area = (right - left) * (bottom - top) / (width * height)
    fits = max(width / height, height / width) < 2  # otherwise 8% of the area may not fit
    assert area <= 1 + 1e-6 and (area >= 0.08 - 1e-6 or not fits)


def test_crops_spread_over_the_papers_ranges(rng: np.random.Generator) -> None:
    boxes = np.asarray(
        [
            cropping.inception_crop(100, 100, u, **PAPER)
            for u in rng.random((4000, cropping.UNIFORMS))
        ]
    )
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, aspects = widths * heights / 1e4, widths / heights
    assert areas.min() < 0.1 and areas.max() > 0.95
    assert aspects.min() < 0.77 and aspects.max() > 1.31
    assert abs(np.log(aspects).mean()) < 0.02  # portrait as likely as landscape
    # Below half of the area everything fits, so the share is uniform there.
    small = areas[areas < 0.5]
    assert abs((small < 0.29).mean() - 0.5) < 0.04


def sampler(name: str = "inception", *, decoder: str = "exact", **changes):
    """sample(image, uniforms) -> uint8 [8, 8, 3]."""
    choices = {
        "sampler": name,
        "resize_px": 16,
        "mirror": False,
        "interpolations": ("bilinear",),
        **PAPER,
        **changes,
    }

    def run(image: Image.Image, uniforms: np.ndarray) -> np.ndarray:
        out = np.empty((8, 8, 3), np.uint8)
        picture = decoding.DECODERS[decoder](np.asarray(image), "it", max_megapixels=1.0)
        cropping.training_crop(picture, uniforms, out, **choices)
        return out

    return run


@pytest.fixture
def photo(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8))


def test_mirror_can_be_turned_off_and_mirrors_half(
    photo: Image.Image, rng: np.random.Generator
) -> None:
    mirrored = 0
    for u in rng.random((200, cropping.UNIFORMS)):
        plain, other = sampler()(photo, u), sampler(mirror=True)(photo, u)
        flipped = np.array_equal(other, plain[:, ::-1])
        assert flipped or np.array_equal(other, plain)
        mirrored += flipped
    assert 70 < mirrored < 130


def test_interpolations_are_drawn_with_equal_probability(
    photo: Image.Image, rng: np.random.Generator
) -> None:
    names = tuple(decoding.INTERPOLATIONS)
    counts = dict.fromkeys(names, 0)
    for u in rng.random((400, cropping.UNIFORMS)):
        got = sampler(interpolations=names)(photo, u)
        for name in names:
            counts[name] += np.array_equal(got, sampler(interpolations=(name,))(photo, u))
    assert all(70 < count < 130 for count in counts.values()), counts


def test_caffes_sampler_squashes_and_crops(photo: Image.Image, rng: np.random.Generator) -> None:
    squashed = np.asarray(photo.resize((16, 16), Image.Resampling.BILINEAR))
    corners = set()
    for u in rng.random((2000, cropping.UNIFORMS)):
        crop = sampler("caffe")(photo, u)
        left, top = (int(v * 9) for v in u[:2])
        np.testing.assert_array_equal(crop, squashed[top : top + 8, left : left + 8])
        corners.add((left, top))
    assert len(corners) == 81  # every one from 0 to 8


def test_centre_views(photo: Image.Image) -> None:
    (short,) = all_views(photo, 1, input_px=8, resize_px=10)
    resized = np.asarray(photo.resize((15, 10), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(short, resized[1:9, 3:11])
    (squash,) = all_views(photo, 1, input_px=8, resize_px=10, resize="squash")
    resized = np.asarray(photo.resize((10, 10), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(squash, resized[1:9, 1:9])


def test_the_middle_of_a_long_strip_is_seen(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (400, 10, 3)).astype(np.uint8)
    (view,) = all_views(Image.fromarray(pixels), 1, input_px=10, resize_px=10)
    np.testing.assert_array_equal(view, pixels[195:205])


@hypothesis.given(width=st.integers(1, 500), height=st.integers(1, 500))
@hypothesis.settings(max_examples=30)
def test_views_have_their_size_whatever_the_images(width: int, height: int) -> None:
    image = Image.new("RGB", (width, height))
    for resize in KNOBS["data.resize"].allowed.choices:
        (view,) = all_views(image, 1, input_px=16, resize_px=17, resize=resize)
        assert view.shape == (16, 16, 3)


# Views


def tagged(width: int, height: int) -> Image.Image:
    """No two pixels look alike: red says how far right, green how far down."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).round().astype(np.uint8))


def all_views(image: Image.Image, crops: int, **changes) -> list[np.ndarray]:
    choices = {"input_px": 224, "resize_px": 256, "resize": "short", **changes}
    return list(cropping.Views((crops,), **choices).of(image))


@pytest.mark.parametrize("size", [(500, 375), (375, 500)])
@pytest.mark.parametrize("crops", cropping.VIEWS)
def test_views_are_as_many_as_they_say_and_distinct(crops: int, size: tuple[int, int]) -> None:
    made = all_views(tagged(*size), crops)
    assert len(made) == crops
    assert all(v.shape == (224, 224, 3) and v.dtype == np.uint8 for v in made)
    assert len({v.tobytes() for v in made}) == crops
    for view, mirrored in zip(made[::2], made[1::2], strict=False):
        np.testing.assert_array_equal(mirrored, view[:, ::-1])


def test_the_ten_are_centre_and_corners() -> None:
    image = tagged(300, 256)
    pixels = np.asarray(image)
    corners = [(38, 16), (0, 0), (76, 0), (0, 32), (76, 32)]
    for view, (left, top) in zip(all_views(image, 10)[::2], corners, strict=True):
        np.testing.assert_array_equal(view, pixels[top : top + 224, left : left + 224])
    np.testing.assert_array_equal(all_views(image, 1)[0], all_views(image, 10)[0])


@pytest.mark.parametrize("portrait", [False, True])
def test_the_144_against_a_second_derivation(portrait: bool) -> None:
    image = tagged(512, 256)  # twice as long: every scale is a whole number of pixels
    if portrait:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    expected = []
    for short in (256, 288, 320, 352):
        size = (short, 2 * short) if portrait else (2 * short, short)
        scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        for start in (0, short // 2, short):
            square = scaled[start:, :][:short] if portrait else scaled[:, start:][:, :short]
            edge, middle = short - 224, (short - 224) // 2
            for y, x in ((middle, middle), (0, 0), (0, edge), (edge, 0), (edge, edge)):
                expected.append(square[y : y + 224, x : x + 224])
            whole = Image.fromarray(square).resize((224, 224), Image.Resampling.BILINEAR)
            expected.append(np.asarray(whole))
    for view, wanted in zip(all_views(image, 144)[::2], expected, strict=True):
        np.testing.assert_array_equal(view, wanted)


@pytest.mark.parametrize("turned", [False, True])
def test_the_ends_of_a_long_strip_are_seen(turned: bool) -> None:
    strip = np.full((20, 400, 3), (0, 255, 0), np.uint8)
    strip[:, :20], strip[:, 190:210], strip[:, -20:] = (255, 0, 0), (255, 255, 255), (0, 0, 255)
    image = Image.fromarray(strip.swapaxes(0, 1) if turned else strip)
    for crops in (10, 144):
        made = all_views(image, crops, input_px=16, resize_px=20)
        colors = {tuple(v[8, 8].tolist()) for v in made}
        assert colors == {(255, 0, 0), (255, 255, 255), (0, 0, 255)}, crops


@hypothesis.given(
    size=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    input_px=st.integers(1, 40),
    margin=st.integers(0, 17),
)
@hypothesis.settings(max_examples=60)
def test_the_single_view_and_the_ten_are_among_the_144(
    size: tuple[int, int], input_px: int, margin: int
) -> None:
    views = cropping.Views((1, 10, 144), input_px, input_px + margin, "short")
    weights = views.crop_weights(size)
    assert weights.shape == (144, 3) and weights.sum(0).tolist() == [1, 10, 144]
    rows = views.crops_of(size, 144)
    for column, count in enumerate((1, 10)):
        used = [crop for crop, weight in zip(rows, weights[:, column], strict=True) if weight]
        assert set(used) == set(views.crops_of(size, count))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 333)])
def test_rows_can_be_made_from_anywhere(size: tuple[int, int]) -> None:
    image = tagged(*size)
    made = all_views(image, 144)
    views = cropping.Views((144,), 224, 256, "short")
    for start in (0, 35, 36, 101, 143):
        some = views.of(image, range(start, min(start + 4, 144)))
        np.testing.assert_array_equal(some, made[start : start + 4])


def test_central_crop_is_tf_slims() -> None:
    """87.5% of both sides, then squashed: nearly Caffe's squash and crop, resized once."""
    image = tagged(512, 256)
    (view,) = all_views(image, 1, resize="central_crop")
    box = (32, 16, 480, 240)
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR, box=box))
    np.testing.assert_array_equal(view, expected)
    squash = all_views(image, 10, resize="squash")
    for a, b in zip(all_views(image, 10, resize="central_crop"), squash, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 2


def test_impossible_views() -> None:
    with tiny.refused("--crops=7: choose from 1, 10, 144", "crops"):
        all_views(tagged(30, 30), 7)
    for resize in ("squash", "central_crop"):
        with tiny.refused(f"config.data.resize=short, not {resize}", "crops"):
            all_views(tagged(30, 30), 144, resize=resize)


def test_fast_and_exact_samplers_see_the_same(rng: np.random.Generator) -> None:
    image = tagged(80, 60)
    for name in ("inception", "caffe"):
        for u in rng.random((50, cropping.UNIFORMS)):
            a, b = (
                sampler(name, mirror=True, decoder=d)(image, u).astype(float)
                for d in ("fast", "exact")
            )
            assert np.abs(a - b).mean() < 8, name
