"""Decoding and crops: odd files, the paper's ranges, Pillow as the reference."""

import io
import pathlib

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from inception.data import decoding


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes | np.ndarray, **options) -> np.ndarray:
    return np.asarray(decoding.decode(data, "it.jpg", max_megapixels=1.0, **options))


def test_every_mode_becomes_rgb(photos: pathlib.Path) -> None:
    for path in photos.rglob("*.*"):
        decoded = decode(path.read_bytes())
        with Image.open(path) as image:
            assert decoded.shape == (image.height, image.width, 3), path
        assert decoded.dtype == np.uint8


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.asarray([[0, 256, 32768, 65535]], np.uint16)
    assert decode(encoded(Image.fromarray(grey)))[0, :, 0].tolist() == [0, 1, 128, 255]


def thirty_two(values: np.ndarray) -> bytes:
    deep = Image.fromarray(values.astype(np.uint32).view(np.int32))
    assert deep.mode == "I"  # as Pillow reads a TIFF of 32 bits
    return encoded(deep, "TIFF")


def colors(values: np.ndarray, suffix: str = ".png") -> bytes:
    """16 bits a channel, which Pillow does not write."""
    return cv2.imencode(suffix, values.astype(np.uint16))[1].tobytes()


DEEP = {
    "grey": lambda values: encoded(Image.fromarray(values.astype(np.uint16))),
    "grey TIFF": lambda values: encoded(Image.fromarray(values.astype(np.uint16)), "TIFF"),
    "32 bits": thirty_two,
    "RGB": lambda values: colors(np.stack([values] * 3, -1)),
    "RGB TIFF": lambda values: colors(np.stack([values] * 3, -1), ".tif"),
    "RGBA": lambda values: colors(np.stack([values] * 4, -1)),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("decoder", decoding.DECODERS)
def test_the_upper_eight_of_the_bits_in_use_are_taken(kind: str, decoder: str) -> None:
    for bits in (8, 12, 16, *([20, 32] if kind == "32 bits" else [])):
        ramp = np.arange(256).reshape(16, 16) << (bits - 8)
        picture = decoding.DECODERS[decoder](DEEP[kind](ramp), "it", max_megapixels=1.0, bits=bits)
        seen = resized(picture, "nearest", size=(16, 16))
        assert (seen == np.arange(256).reshape(16, 16, 1)).all()
        dark = DEEP[kind](ramp // 16)  # the bits are the set's: a dark picture stays dark
        assert decode(dark, bits=bits).max() == 15
        assert decoding.greatest(DEEP[kind](ramp)) == 255 << (bits - 8)


@pytest.mark.parametrize("kind", DEEP)
def test_a_number_beyond_the_bits_in_use_is_damage(kind: str) -> None:
    values = np.asarray([[0, 4095], [4096, 1]])
    match = r"^it\.jpg: its greatest number, 4,096, has 13 bits, not config\.data\.bits=12$"
    with pytest.raises(decoding.DamagedImageError, match=match):
        decode(DEEP[kind](values), bits=12)
    if kind == "32 bits":
        with pytest.raises(decoding.DamagedImageError, match=r"65,536, has 17 bits.*bits=16$"):
            decode(thirty_two(values * 16))


@pytest.mark.parametrize("kind", ["grey", "RGB", "RGBA"])
def test_deep_pictures_are_turned_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    plain, shallow = DEEP[kind](np.asarray([[4095, 0]])), encoded(smooth(2, 1), exif=exif)
    chunk = shallow.index(b"eXIf") - 4
    length = int.from_bytes(shallow[chunk : chunk + 4], "big") + 12
    data = plain[:33] + shallow[chunk : chunk + length] + plain[33:]  # after the header
    assert decode(data, bits=12, upright=True)[..., 0].tolist() == [[255], [0]]
    assert decode(data, bits=12)[..., 0].tolist() == [[255, 0]]


def test_of_eight_bits_there_is_no_greatest_number(photos: pathlib.Path) -> None:
    for path in photos.rglob("*.*"):
        deep = path.name == "5.png"
        assert (decoding.greatest(path.read_bytes()) > 255) == deep, path
    assert decoding.greatest(b"no picture") == decoding.greatest(np.zeros((2, 2), np.uint8)) == 0


def test_grey_arrays_and_first_frames() -> None:
    assert decode(np.full((3, 4), 7, np.uint8)).tolist() == np.full((3, 4, 3), 7).tolist()
    frames = [Image.new("RGB", (5, 5), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


def huge() -> bytes:
    """A PNG that says that it is 40,000 x 40,000 px, and has no pixels."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"this is a text", "not an image"),
        (encoded(Image.new("RGB", (64, 64)), "JPEG")[:-30], "truncated"),
        (huge(), r"40000 x 40000 px is more than config\.data\.max_megapixels=1"),
    ],
)
def test_damaged_images_are_named_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(decoding.DamagedImageError, match=rf"^it\.jpg: .*{reason}") as caught:
        decode(data)
    assert "\n" not in str(caught.value)


# Pictures


def open_both(data: bytes | np.ndarray) -> tuple[decoding.Picture, decoding.Picture]:
    fast, exact = (
        decoding.DECODERS[d](data, "it.jpg", max_megapixels=1.0) for d in ("fast", "exact")
    )
    return fast, exact


def resized(picture: decoding.Picture, method: str, box=None, size=(12, 10)) -> np.ndarray:
    out = np.empty((*size, 3), np.uint8)
    picture.resize(out, method, box)
    return out


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture whose detail is coarse, as a photo's mostly is."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@hypothesis.given(
    width=st.integers(9, 130),
    height=st.integers(9, 130),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    mode=st.sampled_from(["RGB", "L"]),
    progressive=st.booleans(),
    uniforms=st.lists(st.floats(0, 0.999), min_size=4, max_size=4),
)
def test_only_the_box_is_decoded_to_the_same_pixels(
    width: int, height: int, subsampling: str, mode: str, progressive: bool, uniforms: list[float]
) -> None:
    rng = np.random.default_rng(width * 1000 + height)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).convert(mode)
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    data = encoded(noise, "JPEG", quality=90, progressive=progressive, **options)
    left, top = int(uniforms[0] * width), int(uniforms[1] * height)
    left = min(left, width - 2)
    right = left + 2 + int(uniforms[2] * (width - left - 1))
    bottom = top + 1 + int(uniforms[3] * (height - top))
    box = (left, top, right, bottom)
    fast, _ = open_both(data)
    got = resized(fast, "nearest", box, size=(bottom - top, right - left))
    np.testing.assert_array_equal(got, decode(data)[top:bottom, left:right])


@pytest.mark.parametrize("method", list(decoding.INTERPOLATIONS))
@pytest.mark.parametrize("size", [(30, 40), (20, 24), (200, 150)])
def test_fast_and_exact_agree_on_what_is_coarse(method: str, size: tuple[int, int]) -> None:
    fast, exact = open_both(encoded(smooth(90, 80), "JPEG", quality=95))
    box = (3.4, 5.6, 80.2, 71.9)
    a, b = (resized(p, method, box, size=size).astype(float) for p in (fast, exact))
    assert np.sqrt(np.mean((a - b) ** 2)) < 6


@pytest.mark.parametrize("method", list(decoding.INTERPOLATIONS))
def test_a_picture_in_its_own_size_is_itself(method: str) -> None:
    image = np.asarray(smooth(21, 17))
    for picture in open_both(image):
        assert picture.size == (21, 17)
        np.testing.assert_array_equal(resized(picture, method, size=(17, 21)), image)


def test_what_is_far_too_large_is_averaged_first(rng: np.random.Generator) -> None:
    noise = rng.integers(0, 256, (400, 400, 3)).astype(np.uint8)
    fast, _ = open_both(noise)
    for method in ("bilinear", "cubic", "area"):  # the mean of 1,600 pixels each
        assert resized(fast, method, size=(10, 10)).std() < 8, method
    assert resized(fast, "nearest", size=(10, 10)).std() > 50


def test_fast_pictures_of_every_format_and_mode(photos: pathlib.Path) -> None:
    for path in photos.rglob("*.*"):
        fast, exact = open_both(path.read_bytes())
        width, height = exact.size
        assert fast.size == exact.size
        a, b = (resized(p, "nearest", size=(height, width)) for p in (fast, exact))
        np.testing.assert_array_equal(a, b, err_msg=str(path))


def test_an_orientation_in_exif_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    data = encoded(smooth(40, 20), "JPEG", exif=exif)
    fast, exact = open_both(data)
    assert fast.size == exact.size == (40, 20)
    np.testing.assert_array_equal(*(resized(p, "nearest", size=(20, 40)) for p in (fast, exact)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"\xff\xd8this is a text\xff\xd9", "not an image"),
        (encoded(smooth(64, 64), "JPEG")[:-30], "truncated"),
        (encoded(smooth(1001, 1001), "JPEG"), r"1001 x 1001 px is more than"),
    ],
)
def test_fast_pictures_name_damage(data: bytes, reason: str) -> None:
    with pytest.raises(decoding.DamagedImageError, match=rf"^it\.jpg: .*{reason}"):
        resized(open_both(data)[0], "bilinear")


def test_fast_is_as_good_as_pillow_without_nvimagecodec(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(smooth(60, 50), "JPEG")
    here = resized(open_both(data)[0], "bilinear", (3, 4, 50, 40))
    monkeypatch.setattr(decoding, "nvimgcodec", None)
    elsewhere = resized(open_both(data)[0], "bilinear", (3, 4, 50, 40))
    np.testing.assert_array_equal(here, elsewhere)
