"""The parts of an image that the network sees: random crops in training, views in evaluation."""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from inception import UserError
from inception.data.decoding import Box, Picture

ATTEMPTS = 10  # draws of a crop, until one fits into the image
# Random numbers of a training crop: area and aspect of each attempt; left, top; mirror;
# interpolation.
UNIFORMS = 2 * ATTEMPTS + 4
VIEWS = (1, 10, 144)  # crops of one image in the paper's Table 3
BILINEAR = Image.Resampling.BILINEAR


def inception_crop(
    width: int,
    height: int,
    uniforms: np.ndarray,
    area_range: tuple[float, float],
    aspect_range: tuple[float, float],
) -> Box:
    """The paper's crop: a box (left, top, right, bottom) in pixels, section 6.

    Its share of the area is uniform in `area_range`, its aspect ratio log-uniform in
    `aspect_range`, its position uniform. The first of 10 draws that fits into the image is used;
    if none fits, the largest central box of the nearest allowed aspect ratio.

    Args:
        uniforms: at least 22 numbers from [0, 1).
    """
    low, high = area_range
    log_low, log_high = (math.log(a) for a in aspect_range)
    draws = uniforms.tolist()  # Python's floats are faster here than NumPy's
    for i in range(0, 2 * ATTEMPTS, 2):
        area = width * height * (low + (high - low) * draws[i])
        aspect = math.exp(log_low + (log_high - log_low) * draws[i + 1])
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            u_left, u_top = draws[2 * ATTEMPTS : 2 * ATTEMPTS + 2]
            left, top = u_left * (width - w), u_top * (height - h)
            return left, top, left + w, top + h
    aspect = min(max(width / height, aspect_range[0]), aspect_range[1])
    w, h = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def training_crop(
    picture: Picture,
    uniforms: np.ndarray,
    out: np.ndarray,
    *,
    sampler: str,
    resize_px: int,
    area_range: tuple[float, float],
    aspect_range: tuple[float, float],
    mirror: bool,
    interpolations: tuple[str, ...],
) -> None:
    """Fills `out`, uint8 [px, px, 3], contiguous, with the crop that the uniform numbers choose.

    Sampler 'inception': the paper's crop, resized. 'caffe': a crop at a random position of the
    image squashed to resize_px x resize_px. Both: mirrored half the time if `mirror`,
    interpolation drawn from `interpolations`.

    Args:
        uniforms: 24 numbers from [0, 1).
    """
    method = interpolations[int(uniforms[-1] * len(interpolations))]
    if sampler == "inception":
        box = inception_crop(*picture.size, uniforms, area_range, aspect_range)
        picture.resize(out, method, box)
    else:
        squashed = np.empty((resize_px, resize_px, 3), np.uint8)
        picture.resize(squashed, method)
        px = len(out)
        left, top = (int(u * (resize_px - px + 1)) for u in uniforms[:2])
        out[:] = squashed[top : top + px, left : left + px]
    if mirror and uniforms[-2] < 0.5:
        cv2.flip(out, 1, dst=out)


Square = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


class Crop(NamedTuple):
    """A box of the image resized to `px` on its shorter side, mirrored or not."""

    px: int
    box: Square
    mirrored: bool


@dataclasses.dataclass(frozen=True)
class Views:
    """The crops of an image that evaluation averages over, each uint8 [input_px, input_px, 3].

    1: the centre of the resized image. 10: the centre and four corners, each also mirrored. 144:
    the paper's, section 7: 4 scales (the shorter side is resize_px times 8/8, 9/8, 10/8 and 11/8:
    256, 288, 320, 352), 3 squares of each scale, and of each square the centre, the four corners
    and the whole square resized to input_px, each also mirrored. The single view is the first of
    the ten, and the ten are among the 144: all three together cost no more than 144.

    Args:
        crops: some of 1, 10, 144.
        resize: 'short': the shorter side becomes resize_px. 'squash': both sides do (Caffe).
            'central_crop': as 'squash', but cropped first and resized once (TF-slim: 224 of 256
            px are the central 87.5% of both sides).

    Raises:
        UserError: an unknown number of crops, or 144 crops with another `resize` than 'short'.
    """

    crops: tuple[int, ...]
    input_px: int
    resize_px: int
    resize: str

    def __post_init__(self) -> None:
        for crops in self.crops:
            if crops not in VIEWS:
                raise UserError(f"`crops`={crops}: choose from {', '.join(map(str, VIEWS))}")
        if 144 in self.crops and self.resize != "short":
            raise UserError(
                f"`crops`=144 needs the image's own aspect: `resize`=short, not {self.resize}"
            )

    @property
    def rows(self) -> int:
        """The number of crops of one image that the network sees."""
        return max(self.crops)

    def crops_of(self, size: tuple[int, int], count: int) -> list[Crop]:
        """The 1, 10 or 144 crops of an image of (width, height)."""
        crops = []
        for eighths in (8, 9, 10, 11) if count == 144 else (8,):
            px = self.resize_px * eighths // 8
            width, height = self._resized_size(size, px)
            right, bottom = width - px, height - px  # one of them is 0: the squares lie in a row
            squares = [
                (x, y, x + px, y + px)
                for x, y in ((0, 0), (right // 2, bottom // 2), (right, bottom))
            ]
            for area in squares if count == 144 else [(0, 0, width, height)]:
                boxes = self._centre_and_corners(area, px)
                boxes += [area] if count == 144 else []
                crops += [Crop(px, box, mirrored) for box in boxes for mirrored in (False, True)]
        return crops[:count]

    def crop_weights(self, size: tuple[int, int]) -> np.ndarray:
        """How often each row counts in each number of crops, float32 [rows, len(crops)].

        A row counts more than once where crops coincide; a column sums to its number of crops.
        """
        rows = self.crops_of(size, self.rows)
        columns = []
        for count in self.crops:
            times = collections.Counter(self.crops_of(size, count))
            columns.append([1 if count == self.rows else times.pop(crop, 0) for crop in rows])
        return np.asarray(columns, np.float32).T

    def of(self, image: Image.Image, rows: Iterable[int] | None = None) -> np.ndarray:
        """The crops of an RGB image, all or those of `rows`: uint8 [n, input_px, input_px, 3]."""
        crops = self.crops_of(image.size, self.rows)
        crops = crops if rows is None else [crops[row] for row in rows]
        out = np.empty((len(crops), self.input_px, self.input_px, 3), np.uint8)
        resized = functools.cache(functools.partial(self._resized, image))
        for row, crop in zip(out, crops, strict=True):
            if self.resize == "central_crop":
                box = np.asarray(crop.box) / crop.px * np.tile(image.size, 2)
                view = np.asarray(image.resize(row.shape[:2], BILINEAR, box=tuple(box)))
            else:
                left, top, right, bottom = crop.box
                view = resized(crop.px)[top:bottom, left:right]
            if view.shape != row.shape:
                view = np.asarray(Image.fromarray(view).resize(row.shape[:2], BILINEAR))
            if crop.mirrored:
                cv2.flip(view, 1, dst=row)
            else:
                row[:] = view
        return out

    def _resized_size(self, size: tuple[int, int], px: int) -> tuple[int, int]:
        """NOTE: an image longer than 9 times its width is reduced to its ends and its middle, which
        contain all crops: otherwise a strip a few pixels wide would become gigabytes."""
        if self.resize != "short":
            return px, px
        short = min(size)
        width, height = (round(min(side, 9 * short) * (px / short)) for side in size)
        return width, height

    def _resized(self, image: Image.Image, px: int) -> np.ndarray:
        size = self._resized_size(image.size, px)
        part, long = 3 * min(image.size), max(image.size)
        if self.resize == "short" and long > 3 * part:
            middle = (long - part) // 2
            kept = np.r_[:part, middle : middle + part, long - part : long]
            image = Image.fromarray(np.asarray(image).take(kept, int(image.width == long)))
        return np.asarray(image.resize(size, BILINEAR))

    def _centre_and_corners(self, area: Square, px: int) -> list[Square]:
        left, top, right, bottom = area
        # Centred in the central square: the same crop as the 144's, to the pixel.
        x, y = (
            low + (high - low - px) // 2 + (px - self.input_px) // 2
            for low, high in ((left, right), (top, bottom))
        )
        right, bottom = right - self.input_px, bottom - self.input_px
        corners = [(x, y), (left, top), (right, top), (left, bottom), (right, bottom)]
        return [(x, y, x + self.input_px, y + self.input_px) for x, y in corners]
