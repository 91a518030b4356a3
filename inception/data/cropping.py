"""Which part of an image the network sees: the training samplers, the views of evaluation."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from inception import UserError
from inception.data import augment
from inception.data.decoding import INTERPOLATIONS, Picture

ATTEMPTS = 10  # at a crop that fits into the image
UNIFORMS = 2 * ATTEMPTS + 4  # random numbers that a training sampler takes for one image
VIEWS = (1, 10, 144)  # crops of one image in the paper's Table 3
RESIZES = ("short", "squash", "central_crop")
BILINEAR = Image.Resampling.BILINEAR

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
    layers: int = 0,
    magnitude: float = 0.0,
) -> Sampler:
    """sample(picture, uniforms [24], out) fills `out`, uint8 [input_px, input_px, 3], contiguous.

    'inception': the paper's crop, resized. 'caffe': the image squashed to resize_px x resize_px,
    and a crop from a random place. Both: mirrored half the time if `mirror`, interpolation
    drawn from `interpolations`; then RandAugment's layers, if any.

    Raises:
        UserError: an unknown sampler or interpolation, an empty or impossible range or magnitude.
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
    augment.check(magnitude)
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
        if layers:
            rng = np.random.default_rng(uniforms.view(np.uint64))
            augment.rand_augment(out, rng, layers=layers, magnitude=magnitude)

    return sample


def check_sizes(input_px: int, resize_px: int) -> None:
    """Raises UserError where a crop of input_px does not fit into resize_px."""
    if not 1 <= input_px <= resize_px:
        raise UserError(
            f"config.input_px={input_px} and config.data.resize_px={resize_px}: need "
            "1 <= input_px <= resize_px"
        )


class Place(NamedTuple):
    """One crop: the image's shorter side made `px`, a box of that, and whether it is mirrored."""

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
    are among the 144: whoever asks for all three pays for 144.

    Args:
        crops: some of 1, 10, 144.
        resize: 'short': the shorter side becomes resize_px. 'squash': both sides do (Caffe).
            'central_crop': as squash, but crop first and resize once (TF-slim: with 224 of 256
            px the central 87.5% of both sides).

    Raises:
        UserError: a choice that does not exist.
    """

    crops: tuple[int, ...]
    input_px: int
    resize_px: int
    resize: str

    def __post_init__(self) -> None:
        check_sizes(self.input_px, self.resize_px)
        if self.resize not in RESIZES:
            raise UserError(f"config.data.resize={self.resize}: choose one of {', '.join(RESIZES)}")
        for crops in self.crops:
            if crops not in VIEWS:
                raise UserError(f"--crops={crops}: choose from {', '.join(map(str, VIEWS))}")
        if 144 in self.crops and self.resize != "short":
            raise UserError(
                f"--crops=144 needs the image's own aspect: config.data.resize=short, not "
                f"{self.resize}"
            )

    @property
    def rows(self) -> int:
        """How many crops of one image the network sees."""
        return max(self.crops)

    def places(self, size: tuple[int, int], crops: int) -> list[Place]:
        """The crops of an image of (width, height)."""
        eighths = (8, 9, 10, 11) if crops == 144 else (8,)
        places = []
        for px in (self.resize_px * n // 8 for n in eighths):
            width, height = self._resized_size(size, px)
            squares = self._squares(width, height) if crops == 144 else [(0, 0, width, height)]
            for square in squares:
                boxes = self._centre_and_corners(square, px)
                for box in [*boxes, square] if crops == 144 else boxes:
                    places += [Place(px, box, False), Place(px, box, True)]
        return places[:crops]

    def members(self, size: tuple[int, int]) -> np.ndarray:
        """How often each row counts among each of `crops`, float32 [rows, len(crops)].

        More than once where crops coincide; a column sums to its number of crops.
        """
        rows = self.places(size, self.rows)
        members = np.zeros((len(rows), len(self.crops)), np.float32)
        for column, crops in enumerate(self.crops):
            if crops == self.rows:
                members[:, column] = 1
            else:
                mine = [rows.index(place) for place in self.places(size, crops)]
                np.add.at(members, (mine, column), 1)
        return members

    def of(self, image: Image.Image) -> np.ndarray:
        """All rows of an RGB image, uint8 [rows, input_px, input_px, 3]."""
        out = np.empty((self.rows, self.input_px, self.input_px, 3), np.uint8)
        self.fill(image, 0, out)
        return out

    def fill(self, image: Image.Image, start: int, out: np.ndarray) -> None:
        """Writes the rows from `start` on into `out`, as many as fit: uint8 [n, px, px, 3]."""
        px = 0
        for row, place in zip(out, self.places(image.size, self.rows)[start:], strict=False):
            if self.resize == "central_crop":
                view = np.asarray(self._central(image, place))
            else:
                if place.px != px:
                    px, resized = place.px, self._resized(image, place.px)
                    pixels = np.asarray(resized)
                left, top, right, bottom = place.box
                view = pixels[top:bottom, left:right]
                if view.shape != row.shape:
                    whole = resized.crop(place.box)
                    view = np.asarray(whole.resize((self.input_px,) * 2, BILINEAR))
            if place.mirrored:
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

    def _central(self, image: Image.Image, place: Place) -> Image.Image:
        left, top, right, bottom = (side / place.px for side in place.box)
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
        places = [(x, y), (left, top), (right, top), (left, bottom), (right, bottom)]
        return [(x, y, x + self.input_px, y + self.input_px) for x, y in places]
