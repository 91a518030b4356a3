"""Bytes -> pixels: decoding, the training samplers, the views of evaluation."""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from inception import UserError

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "cubic": Image.Resampling.BICUBIC,
}
Image.MAX_IMAGE_PIXELS = None  # `decode` has its own limit, with the knob's name

ATTEMPTS = 10  # at a crop that fits into the image
UNIFORMS = 2 * ATTEMPTS + 4  # random numbers that a training sampler takes for one image

Sampler = Callable[[Image.Image, np.ndarray], np.ndarray]


class DamagedImageError(Exception):
    """An image that cannot be decoded; the text says which and why."""


def decode(data: bytes | np.ndarray, name: str, *, max_megapixels: float) -> Image.Image:
    """JPEG, PNG, WebP and whatever else Pillow reads, of any mode -> RGB.

    Grey, palette and CMYK pictures are converted, 16-bit ones scaled to 8 bits, transparency is
    dropped, of an animation the first frame is taken.

    NOTE: an EXIF orientation is ignored, as by TensorFlow and torchvision: ImageNet's published
    numbers were trained and evaluated so.

    Args:
        data: an encoded image, or pixels as uint8 [h, w] or [h, w, 3].
        name: for messages.
        max_megapixels: a larger picture counts as damaged; its pixels are never read.

    Raises:
        DamagedImageError: no image, a truncated one, or too large a one.
    """
    if isinstance(data, np.ndarray):
        return Image.fromarray(data).convert("RGB")
    try:
        image = Image.open(io.BytesIO(data))
        width, height = image.size
        if width * height > max_megapixels * 1e6:
            raise DamagedImageError(
                f"{name}: {width} x {height} px is more than config.data.max_megapixels="
                f"{max_megapixels:g}"
            )
        if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion clips
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")
    except DamagedImageError:
        raise
    except Exception as error:  # Pillow's plugins raise what they like on damaged files
        reason = "an empty file" if not data else str(error).replace(f"{io.BytesIO}", "the file")
        if "cannot identify image file" in reason:
            reason = "not an image"
        raise DamagedImageError(f"{name}: {reason}") from error


def inception_crop(
    width: int,
    height: int,
    uniforms: np.ndarray,
    *,
    area_range: tuple[float, float],
    aspect_range: tuple[float, float],
) -> tuple[float, float, float, float]:
    """The paper's crop: a box (left, top, right, bottom) in pixels, section 6.

    Its share of the area is uniform in `area_range`, its aspect ratio log-uniform in
    `aspect_range`, its place uniform. Draws that do not fit are repeated; after 10 of them the
    largest central box of the nearest allowed aspect ratio is taken.

    Args:
        uniforms: at least 22 numbers from [0, 1).
    """
    low, high = area_range
    log_low, log_high = (math.log(a) for a in aspect_range)
    for u_area, u_aspect in uniforms[: 2 * ATTEMPTS].reshape(ATTEMPTS, 2):
        area = width * height * (low + (high - low) * u_area)
        aspect = math.exp(log_low + (log_high - log_low) * u_aspect)
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            u_left, u_top = uniforms[2 * ATTEMPTS : 2 * ATTEMPTS + 2]
            left, top = u_left * (width - w), u_top * (height - h)
            return left, top, left + w, top + h
    aspect = min(max(width / height, aspect_range[0]), aspect_range[1])
    w, h = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def training_sampler(
    name: str,
    *,
    input_px: int,
    resize_px: int,
    area_range: tuple[float, float],
    aspect_range: tuple[float, float],
    mirror: bool,
    interpolations: tuple[str, ...],
) -> Sampler:
    """(image, uniforms [24]) -> uint8 [input_px, input_px, 3].

    'inception': the paper's crop, resized. 'caffe': the image squashed to resize_px x resize_px,
    and a crop from a random place. Both: mirrored half the time if `mirror`, interpolation
    drawn from `interpolations`.

    Raises:
        UserError: an unknown sampler or interpolation, an empty or impossible range.
    """
    if name not in ("inception", "caffe"):
        raise UserError(f"config.data.sampler={name}: choose inception or caffe")
    for method in interpolations:
        if method not in INTERPOLATIONS:
            raise UserError(
                f"config.data.interpolations has '{method}': choose from "
                f"{tuple(INTERPOLATIONS)}, written as \"('bilinear','area')\""
            )
    if not interpolations:
        raise UserError("config.data.interpolations is empty: name at least one")
    check_sizes(input_px, resize_px)
    for knob, bounds, most in (("area", area_range, 1.0), ("aspect", aspect_range, math.inf)):
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= most:
            raise UserError(
                f"config.data.{knob}_range={bounds}: two numbers, 0 < low <= high"
                + (" <= 1" if most == 1.0 else "")
            )

    def sample(image: Image.Image, uniforms: np.ndarray) -> np.ndarray:
        method = INTERPOLATIONS[interpolations[int(uniforms[-1] * len(interpolations))]]
        if name == "inception":
            box = inception_crop(
                *image.size, uniforms, area_range=area_range, aspect_range=aspect_range
            )
            image = image.resize((input_px, input_px), method, box=box)
        else:
            image = image.resize((resize_px, resize_px), method)
            left, top = (int(u * (resize_px - input_px + 1)) for u in uniforms[:2])
            image = image.crop((left, top, left + input_px, top + input_px))
        if mirror and uniforms[-2] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    return sample


def check_sizes(input_px: int, resize_px: int) -> None:
    """Raises UserError where a crop of input_px does not fit into resize_px."""
    if not 1 <= input_px <= resize_px:
        raise UserError(
            f"config.input_px={input_px} and config.data.resize_px={resize_px}: need "
            "1 <= input_px <= resize_px"
        )


def check_resize(resize: str) -> None:
    """Raises UserError for an unknown way to resize."""
    if resize not in ("short", "squash"):
        raise UserError(f"config.data.resize={resize}: choose short or squash")


def center_view(image: Image.Image, *, input_px: int, resize_px: int, resize: str) -> np.ndarray:
    """The one view of single-crop evaluation: resized, the centre cut out, uint8.

    'short': the shorter side becomes resize_px. 'squash': both sides do (Caffe).

    NOTE: of an image longer than 8 times its width only the middle is resized, for the crop sees
    no more: a strip of a few pixels' width would become gigabytes.

    Raises:
        UserError: an unknown way to resize.
    """
    check_resize(resize)
    if resize == "squash":
        size = (resize_px, resize_px)
    else:
        short, long = min(image.size), max(image.size)
        if long > 8 * short:
            cut = (long - 8 * short) // 2
            across = cut if image.width == long else 0
            down = cut if image.height == long else 0
            image = image.crop((across, down, image.width - across, image.height - down))
        scale = resize_px / min(image.size)
        width, height = image.size
        size = max(resize_px, round(width * scale)), max(resize_px, round(height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = ((side - input_px) // 2 for side in size)
    return np.asarray(image.crop((left, top, left + input_px, top + input_px)))
