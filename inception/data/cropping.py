"""Which part of an image the network sees: training's random crops, the views of evaluation."""

import dataclasses
import math
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from inception import UserError
from inception.data.decoding import Picture

ATTEMPTS = 10  # at a crop that fits into the image
# Random numbers of a training crop: area and aspect of each attempt; left, top; mirror;
# interpolation.
UNIFORMS = 2 * ATTEMPTS + 4
VIEWS = (1, 10, 144)  # crops of one image in the paper's Table 3
RESIZES = ("short", "squash", "central_crop")
BILINEAR = Image.Resampling.BILINEAR


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
    `aspect_range`, its position uniform. Of 10 draws the first that fits is taken, or else the
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

    Sampler 'inception': the paper's crop, resized. 'caffe': the image squashed to resize_px x
    resize_px, and a crop of it at a random position. Both: mirrored half the time if `mirror`,
    interpolation drawn from `interpolations`.

    Args:
        uniforms: 24 numbers from [0, 1).
    """
    method = interpolations[int(uniforms[-1] * len(interpolations))]
    if sampler == "inception":
        width, height = picture.size
        box = inception_crop(
            width, height, uniforms, area_range=area_range, aspect_range=aspect_range
        )
        picture.resize(out, method, box)
    elif sampler == "caffe":
        squashed = np.empty((resize_px, resize_px, 3), np.uint8)
        picture.resize(squashed, method)
        px = len(out)
        left, top = (int(u * (resize_px - px + 1)) for u in uniforms[:2])
        out[:] = squashed[top : top + px, left : left + px]
    else:
        raise ValueError(f"unknown sampler {sampler}")
    if mirror and uniforms[-2] < 0.5:
        cv2.flip(out, 1, dst=out)


class Crop(NamedTuple):
    """A box of the image resized to `px` on its shorter side, mirrored or not."""

    px: int
    box: tuple[int, int, int, int]  # left, top, right, bottom
    mirrored: bool


@dataclasses.dataclass(frozen=True)
class Views:
    """What evaluation averages over: uint8 [input_px, input_px, 3], so many of each image.

    1: the image resized, its centre. 10: centre and four corners, each also mirrored. 144: the
    paper's, section 7: at 4 scales (the shorter side resize_px times 8/8, 9/8, 10/8 and 11/8:
    256, 288, 320, 352) 3 squares, and of each the centre, the four corners and the whole square
    resized to input_px, each also mirrored. The single view is the first of the ten, and those
    are among the 144: all three together cost no more than 144.

    Args:
        crops: some of 1, 10, 144.
        resize: 'short': the shorter side becomes resize_px. 'squash': both sides do (Caffe).
            'central_crop': as squash, but crop first and resize once (TF-slim: with 224 of 256
            px the central 87.5% of both sides).

    Raises:
        UserError: another number of crops, or 144 of images resized another way than 'short'.
    """

    crops: tuple[int, ...]
    input_px: int
    resize_px: int
    resize: str

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"unknown resize {self.resize}")
        for crops in self.crops:
            if crops not in VIEWS:
                raise UserError(f"`crops`={crops}: choose from {', '.join(map(str, VIEWS))}")
        if 144 in self.crops and self.resize != "short":
            raise UserError(
                f"`crops`=144 needs the image's own aspect: `resize`=short, not {self.resize}"
            )

    @property
    def rows(self) -> int:
        """How many crops of one image the network sees."""
        return max(self.crops)

    def crops_of(self, size: tuple[int, int], count: int) -> list[Crop]:
        """The 1, 10 or 144 crops of an image of (width, height)."""
        eighths = (8, 9, 10, 11) if count == 144 else (8,)
        crops = []
        for px in (self.resize_px * n // 8 for n in eighths):
            width, height = self._resized_size(size, px)
            squares = self._squares(width, height) if count == 144 else [(0, 0, width, height)]
            for square in squares:
                boxes = self._centre_and_corners(square, px)
                for box in [*boxes, square] if count == 144 else boxes:
                    crops += [Crop(px, box, False), Crop(px, box, True)]
        return crops[:count]

    def crop_weights(self, size: tuple[int, int]) -> np.ndarray:
        """How often each row counts among each number of crops, float32 [rows, len(crops)].

        More than once where crops coincide; a column sums to its number of crops.
        """
        rows = self.crops_of(size, self.rows)
        weights = np.zeros((len(rows), len(self.crops)), np.float32)
        for column, count in enumerate(self.crops):
            if count == self.rows:
                weights[:, column] = 1
            else:
                used = [rows.index(crop) for crop in self.crops_of(size, count)]
                np.add.at(weights, (used, column), 1)
        return weights

    def of(self, image: Image.Image) -> np.ndarray:
        """All rows of an RGB image, uint8 [rows, input_px, input_px, 3]."""
        out = np.empty((self.rows, self.input_px, self.input_px, 3), np.uint8)
        self.fill(image, 0, out)
        return out

    def fill(self, image: Image.Image, start: int, out: np.ndarray) -> None:
        """Writes the rows from `start` on into `out`, as many as fit: uint8 [n, px, px, 3]."""
        px = 0
        for row, crop in zip(out, self.crops_of(image.size, self.rows)[start:], strict=False):
            if self.resize == "central_crop":
                view = np.asarray(self._central(image, crop))
            else:
                if crop.px != px:
                    px, resized = crop.px, self._resized(image, crop.px)
                    pixels = np.asarray(resized)
                left, top, right, bottom = crop.box
                view = pixels[top:bottom, left:right]
                if view.shape != row.shape:
                    whole = resized.crop(crop.box)
                    view = np.asarray(whole.resize((self.input_px,) * 2, BILINEAR))
            if crop.mirrored:
                cv2.flip(view, 1, dst=row)
            else:
                row[:] = view

    def _resized_size(self, size: tuple[int, int], px: int) -> tuple[int, int]:
        """NOTE: of an image longer than 9 times its width only the ends and the middle are used,
        for the crops see no more: a strip of a few pixels' width would become gigabytes."""
        if self.resize != "short":
            return px, px
        short = min(size)
        width, height = (min(side, 9 * short) for side in size)
        scale = px / short
        return max(px, round(width * scale)), max(px, round(height * scale))

    def _resized(self, image: Image.Image, px: int) -> Image.Image:
        short, long = min(image.size), max(image.size)
        if self.resize == "short" and long > 9 * short:
            part, pixels = 3 * short, np.asarray(image)
            axis = 1 if image.width == long else 0
            starts = (0, (long - part) // 2, long - part)
            parts = [pixels.take(range(start, start + part), axis) for start in starts]
            return Image.fromarray(np.concatenate(parts, axis)).resize(
                self._resized_size(image.size, px), BILINEAR
            )
        return image.resize(self._resized_size(image.size, px), BILINEAR)

    def _central(self, image: Image.Image, crop: Crop) -> Image.Image:
        left, top, right, bottom = (side / crop.px for side in crop.box)
        width, height = image.size
        box = (left * width, top * height, right * width, bottom * height)
        return image.resize((self.input_px,) * 2, BILINEAR, box=box)

    @staticmethod
    def _squares(width: int, height: int) -> list[tuple[int, int, int, int]]:
        """The paper's three: left, centre and right; of portraits top, centre and bottom."""
        side, long = min(width, height), max(width, height)
        starts = (0, (long - side) // 2, long - side)
        if width == long:
            return [(start, 0, start + side, side) for start in starts]
        return [(0, start, side, start + side) for start in starts]

    def _centre_and_corners(
        self, area: tuple[int, int, int, int], px: int
    ) -> list[tuple[int, int, int, int]]:
        left, top, right, bottom = area
        right, bottom = right - self.input_px, bottom - self.input_px
        # Centred in the central square: to the pixel the same crop as the 144's.
        x, y = (
            low + (high - low + self.input_px - px) // 2 + (px - self.input_px) // 2
            for low, high in ((left, right), (top, bottom))
        )
        corners = [(left, top), (right, top), (left, bottom), (right, bottom)]
        return [(x, y, x + self.input_px, y + self.input_px) for x, y in [(x, y), *corners]]
