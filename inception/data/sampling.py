"""Which part of an image the network sees: the training samplers, the views of evaluation."""

import itertools
import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image

from inception import UserError
from inception.data.images import INTERPOLATIONS, Picture

ATTEMPTS = 10  # at a crop that fits into the image
UNIFORMS = 2 * ATTEMPTS + 4  # random numbers that a training sampler takes for one image
VIEWS = (1, 10, 144)  # crops of one image in the paper's Table 3

Sampler = Callable[[Picture, np.ndarray, np.ndarray], None]


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
    draws = uniforms.tolist()  # Python's own numbers are quicker here than NumPy's
    for u_area, u_aspect in zip(
        draws[0 : 2 * ATTEMPTS : 2], draws[1 : 2 * ATTEMPTS : 2], strict=True
    ):
        area = width * height * (low + (high - low) * u_area)
        aspect = math.exp(log_low + (log_high - log_low) * u_aspect)
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            u_left, u_top = draws[2 * ATTEMPTS : 2 * ATTEMPTS + 2]
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
    """sample(picture, uniforms [24], out) fills `out`, uint8 [input_px, input_px, 3], contiguous.

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

    def sample(picture: Picture, uniforms: np.ndarray, out: np.ndarray) -> None:
        method = interpolations[int(uniforms[-1] * len(interpolations))]
        if name == "inception":
            box = inception_crop(
                *picture.size, uniforms, area_range=area_range, aspect_range=aspect_range
            )
            picture.resize(out, method, box)
        else:
            squashed = np.empty((resize_px, resize_px, 3), np.uint8)
            picture.resize(squashed, method)
            left, top = (int(u * (resize_px - input_px + 1)) for u in uniforms[:2])
            out[:] = squashed[top : top + input_px, left : left + input_px]
        if mirror and uniforms[-2] < 0.5:
            cv2.flip(out, 1, dst=out)

    return sample


def check_sizes(input_px: int, resize_px: int) -> None:
    """Raises UserError where a crop of input_px does not fit into resize_px."""
    if not 1 <= input_px <= resize_px:
        raise UserError(
            f"config.input_px={input_px} and config.data.resize_px={resize_px}: need "
            "1 <= input_px <= resize_px"
        )


def check_resize(resize: str, crops: int = 1) -> None:
    """Raises UserError for an unknown way to resize, or one that the crops cannot have."""
    if resize not in ("short", "squash"):
        raise UserError(f"config.data.resize={resize}: choose short or squash")
    if crops not in VIEWS:
        raise UserError(f"{crops} crops: choose one of {', '.join(map(str, VIEWS))}")
    if crops == 144 and resize == "squash":
        raise UserError("config.data.resize=squash: 144 crops need the image's own aspect: short")


def _resized(image: Image.Image, px: int, resize: str) -> Image.Image:
    """The shorter side ('short') or both ('squash') become px.

    NOTE: of an image longer than 9 times its width only the ends and the middle are resized, for
    the crops see no more: a strip of a few pixels' width would become gigabytes.
    """
    if resize == "squash":
        return image.resize((px, px), Image.Resampling.BILINEAR)
    short, long = min(image.size), max(image.size)
    if long > 9 * short:
        part, pixels = 3 * short, np.asarray(image)
        axis = 1 if image.width == long else 0
        starts = (0, (long - part) // 2, long - part)
        parts = [pixels.take(range(start, start + part), axis) for start in starts]
        image = Image.fromarray(np.concatenate(parts, axis))
    scale = px / min(image.size)
    size = max(px, round(image.width * scale)), max(px, round(image.height * scale))
    return image.resize(size, Image.Resampling.BILINEAR)


def _corners_and_centre(image: Image.Image, px: int) -> Iterator[Image.Image]:
    """The centre, then the four corners."""
    right, bottom = image.width - px, image.height - px
    places = [(right // 2, bottom // 2), (0, 0), (right, 0), (0, bottom), (right, bottom)]
    return (image.crop((left, top, left + px, top + px)) for left, top in places)


def _squares(image: Image.Image) -> list[Image.Image]:
    """The paper's three: left, centre and right; of portraits top, centre and bottom."""
    side, long = min(image.size), max(image.size)
    starts = (0, (long - side) // 2, long - side)
    if image.width == long:
        return [image.crop((start, 0, start + side, side)) for start in starts]
    return [image.crop((0, start, side, start + side)) for start in starts]


def views(
    image: Image.Image, crops: int, *, input_px: int, resize_px: int, resize: str
) -> Iterator[np.ndarray]:
    """What evaluation averages over: `crops` arrays, uint8 [input_px, input_px, 3].

    1: the image resized, its centre. 10: centre and four corners, each also mirrored. 144: the
    paper's, section 7: at 4 scales (the shorter side resize_px times 8/8, 9/8, 10/8 and 11/8:
    256, 288, 320, 352) 3 squares, and of each the centre, the four corners and the whole square
    resized to input_px, each also mirrored. The first is the single view except among the 144.

    Args:
        resize: 'short': the shorter side becomes resize_px. 'squash': both sides do (Caffe).

    Raises:
        UserError: another number of crops, an unknown way to resize.
    """
    check_resize(resize, crops)
    for crop in itertools.islice(_crops(image, crops, input_px, resize_px, resize), crops):
        yield np.asarray(crop)
        if crops > 1:
            yield np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def _crops(
    image: Image.Image, crops: int, input_px: int, resize_px: int, resize: str
) -> Iterator[Image.Image]:
    """The views that are not mirrored; of a single one, and four more."""
    if crops < 144:
        yield from _corners_and_centre(_resized(image, resize_px, resize), input_px)
        return
    for eighths in (8, 9, 10, 11):
        for square in _squares(_resized(image, resize_px * eighths // 8, resize)):
            yield from _corners_and_centre(square, input_px)
            yield square.resize((input_px, input_px), Image.Resampling.BILINEAR)


def center_view(image: Image.Image, *, input_px: int, resize_px: int, resize: str) -> np.ndarray:
    """The one view of single-crop evaluation, uint8 [input_px, input_px, 3]; see `views`."""
    return next(views(image, 1, input_px=input_px, resize_px=resize_px, resize=resize))
