"""Bytes -> pixels: decoding and resizing, exactly or fast."""

import contextlib
import functools
import io
import math
import os
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

INTERPOLATIONS = {  # Pillow's and OpenCV's
    "bilinear": (Image.Resampling.BILINEAR, cv2.INTER_LINEAR),
    "area": (Image.Resampling.BOX, cv2.INTER_AREA),
    "nearest": (Image.Resampling.NEAREST, cv2.INTER_NEAREST_EXACT),
    "cubic": (Image.Resampling.BICUBIC, cv2.INTER_CUBIC),
}
FORMATS = {"JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF"}
SUFFIXES = {  # file suffixes of pictures: those of FORMATS that the installed Pillow reads
    suffix
    for suffix, name in Image.registered_extensions().items()
    if name in FORMATS and name in Image.OPEN
}
ORIENTATION = 0x112  # EXIF's tag
Image.MAX_IMAGE_PIXELS = None  # `decode` has its own limit, and names the knob
cv2.setNumThreads(1)  # the loader already uses many threads

Record = bytes | np.ndarray  # an encoded image, or pixels: uint8 [h, w] or [h, w, 3]
Opened = Record | Image.Image  # or an image that Pillow has opened
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class DamagedImageError(Exception):
    """An image cannot be decoded; the message names the image and the reason."""


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discards what C code writes to stderr within the block."""
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


try:
    with _silent_stderr():  # it warns of missing CUDA libraries, which its CPU backend does not use
        from nvidia import nvimgcodec
except ImportError:  # wheels exist for Linux and Windows only
    nvimgcodec = None

_thread = threading.local()


def _deep(image: Image.Image, data: Opened) -> np.ndarray | None:
    """The pixels of a picture of 16 or 32 bits a channel, grey or RGB; None for any other."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        # NOTE: Pillow reads 32 bits as int32, but files with larger numbers contain uint32.
        return pixels.view(np.uint32) if pixels.dtype == np.int32 else pixels
    tile = getattr(image, "tile", ())  # only an open file has it
    if image.mode in ("RGB", "RGBA") and isinstance(data, bytes) and tile and ";16" in str(tile[0]):
        # NOTE: Pillow keeps the upper 8 of each channel's 16 bits, which may be unused.
        colors = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if colors is None or colors.dtype != np.uint16:
            raise ValueError("a picture of 16 bits a channel that cannot be read")
        return colors[..., 2::-1]  # RGB from BGR, perhaps with transparency
    return None


def _eight_bits(pixels: np.ndarray, bits: int) -> Image.Image:
    """The upper 8 of `bits` bits; ValueError if a number has more bits."""
    if (most := int(pixels.max())) >> bits:
        has = f"its greatest number, {most:,}, has {most.bit_length()} bits"
        raise ValueError(f"{has}, not config.data.bits={bits}")
    return Image.fromarray((pixels >> (bits - 8)).astype(np.uint8))


def greatest(data: Record) -> int:
    """The greatest number in a picture of 16 or 32 bits a channel; 0 for others, also damaged."""
    if isinstance(data, np.ndarray):
        return 0
    try:
        with Image.open(io.BytesIO(data)) as image:
            fits = image.width * image.height < 1e8  # fits in memory, whatever the header says
            pixels = _deep(image, data) if fits else None
    except Exception:  # as in `decode`
        return 0
    return 0 if pixels is None else int(pixels.max())


def decode(
    data: Opened, name: str, *, max_megapixels: float, bits: int = 0, upright: bool = False
) -> Image.Image:
    """JPEG, PNG, WebP and every other format that Pillow reads, of any mode -> RGB.

    Grey, palette and CMYK pictures are converted; transparency is dropped; an animation's first
    frame is used.

    NOTE: an EXIF orientation is ignored unless `upright`, as TensorFlow and torchvision do:
    ImageNet's published results come from training and evaluation without it.

    Args:
        name: for messages.
        max_megapixels: a larger picture counts as damaged; its pixels are never read.
        bits: number of bits in use in pictures of 16 or 32 bits a channel; 0: 16. The upper 8 of
            them are used, whatever the picture contains, so that a dark picture stays dark.

    Raises:
        DamagedImageError: no image, a truncated or too large image, or pixels that are not uint8;
            a number of more than `bits` bits, because clipping would make it white.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.shape[2:] not in ((), (3,)) or data.size == 0:
            raise DamagedImageError(
                f"{name}: {data.dtype} of shape {data.shape} is no uint8 [h, w] or [h, w, 3]"
            )
        return Image.fromarray(data).convert("RGB")
    try:
        image = data if isinstance(data, Image.Image) else Image.open(io.BytesIO(data))
        if image.width * image.height > max_megapixels * 1e6:
            size = f"{image.width} x {image.height} px"
            limit = f"config.data.max_megapixels={max_megapixels:g}"
            raise DamagedImageError(f"{name}: {size} is more than {limit}")
        orientation = image.getexif().get(ORIENTATION, 1) if upright else 1
        if (pixels := _deep(image, data)) is not None:
            image = _eight_bits(pixels, bits or 16)
            image.getexif()[ORIENTATION] = orientation
        if upright:
            image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("a picture of floating-point numbers: save it with 8 or 16 bits")
        return image.convert("RGB")
    except DamagedImageError:
        raise
    except Exception as error:  # Pillow's plugins raise any type on damaged files
        reason = "an empty file" if not data else str(error).replace(f"{io.BytesIO}", "the file")
        if "cannot identify image file" in reason:
            reason = "not an image"
        raise DamagedImageError(f"{name}: {reason}") from error


class ExactPicture:
    """Decodes the whole image; resizes with antialiasing, from a box of subpixel precision.

    Raises:
        DamagedImageError: as `decode`.
    """

    def __init__(self, data: Record, name: str, **reading: Any):
        self._image = decode(data, name, **reading)
        self.size: tuple[int, int] = self._image.size  # width, height

    def resize(self, out: np.ndarray, method: str, box: Box | None = None) -> None:
        """Fills uint8 `out` [h, w, 3] with the box, by default all; a method of INTERPOLATIONS."""
        height, width, _ = out.shape
        out[:] = self._image.resize((width, height), INTERPOLATIONS[method][0], box=box)


class FastPicture:
    """Decodes only the box, in whole pixels; resizes without antialiasing, as TensorFlow 1 did.

    The decoded pixels equal an ExactPicture's (nearly, if the box is one pixel wide). A box at
    least twice as wide and high as `out` is first averaged down by an integer factor, unless the
    method is nearest or area. docs/reasons/input.md lists the gain and the cost.

    NOTE: a JPEG is read only down to the box's lower edge: damage below goes unnoticed, except in
    a file cut off at its end. Pillow decodes the files that nvImageCodec does not support.

    Raises:
        DamagedImageError: as `decode`; perhaps only from `resize`.
    """

    def __init__(self, data: Record, name: str, **reading: Any):
        self._decode = functools.partial(decode, data, name, **reading)
        self._stream = _jpeg_stream(data, **reading) if isinstance(data, bytes) else None
        if self._stream is not None:
            self.size: tuple[int, int] = (self._stream.width, self._stream.height)
        else:
            self._pixels = np.asarray(self._decode()) if isinstance(data, bytes) else data
            self.size = (self._pixels.shape[1], self._pixels.shape[0])

    def _region(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        if self._stream is None:
            return self._pixels[top:bottom, left:right]
        region = self._stream.get_sub_code_stream(0, nvimgcodec.Region(top, left, bottom, right))
        image = _jpeg_decoder().decode(region, params=_thread.params)
        if image is None:
            return np.asarray(self._decode())[top:bottom, left:right]
        return np.asarray(image)

    def resize(self, out: np.ndarray, method: str, box: Box | None = None) -> None:
        """As ExactPicture.resize."""
        left, top, right, bottom = box or (0, 0, *self.size)
        right, bottom = min(self.size[0], math.ceil(right)), min(self.size[1], math.ceil(bottom))
        region = self._region(int(left), int(top), right, bottom)
        height, width, _ = out.shape
        factor = min(region.shape[0] // height, region.shape[1] // width)
        if factor > 1 and method in ("bilinear", "cubic"):
            small = (region.shape[1] // factor, region.shape[0] // factor)
            top = (region.shape[0] - small[1] * factor) // 2
            left = (region.shape[1] - small[0] * factor) // 2
            region = region[top : top + small[1] * factor, left : left + small[0] * factor]
            region = cv2.resize(region, small, interpolation=cv2.INTER_AREA)
        if region.ndim == 2:
            region = cv2.cvtColor(region, cv2.COLOR_GRAY2RGB)
        cv2.resize(region, (width, height), dst=out, interpolation=INTERPOLATIONS[method][1])


def _jpeg_decoder() -> "nvimgcodec.Decoder":
    """This thread's decoder."""
    if not hasattr(_thread, "decoder"):
        _thread.decoder = nvimgcodec.Decoder(
            device_id=-99999,  # NVIMGCODEC_DEVICE_CPU_ONLY of its C header: loads no CUDA
            max_num_cpu_threads=1,
            backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)],
        )
        _thread.params = nvimgcodec.DecodeParams(apply_exif_orientation=False)
    return _thread.decoder


def _jpeg_stream(data: bytes, *, max_megapixels: float, **_: Any) -> Any:
    """A grey or three-channel JPEG, not too large, with an end marker; None for other data."""
    if nvimgcodec is None or data[:2] != b"\xff\xd8" or b"\xff\xd9" not in data[-64:]:
        return None
    try:
        stream = nvimgcodec.CodeStream(data)
        fits = stream.width * stream.height <= max_megapixels * 1e6
        plain = stream.num_channels in (1, 3) and stream.precision in (0, 8)
        return stream if fits and plain else None
    except RuntimeError:  # the header is parsed on first use
        return None


Picture = ExactPicture | FastPicture
DECODERS: dict[str, type[Picture]] = {"fast": FastPicture, "exact": ExactPicture}
