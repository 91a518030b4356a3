"""Decoding and crops: odd files, the paper's ranges, Pillow as the reference."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from inception.data import images


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes | np.ndarray) -> np.ndarray:
    return np.asarray(images.decode(data, "it.jpg", max_megapixels=1.0))


def test_every_mode_becomes_rgb(photos: pathlib.Path) -> None:
    for path in photos.rglob("*.*"):
        decoded = decode(path.read_bytes())
        with Image.open(path) as image:
            assert decoded.shape == (image.height, image.width, 3), path
        assert decoded.dtype == np.uint8


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.asarray([[0, 256, 32768, 65535]], np.uint16)
    assert decode(encoded(Image.fromarray(grey)))[0, :, 0].tolist() == [0, 1, 128, 255]


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
    with pytest.raises(images.DamagedImageError, match=rf"^it\.jpg: .*{reason}") as caught:
        decode(data)
    assert "\n" not in str(caught.value)
