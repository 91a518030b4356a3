"""RandAugment: a few of fourteen operations on each training crop, drawn at random."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

HIGHEST = 10.0  # the largest magnitude, as in the authors' code
FILL = (123, 117, 104)  # ImageNet's mean colour: near 0 to the network

Operation = Callable[[Image.Image, float], Image.Image]


def _moved(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL
    )


def _enhanced(kind: type) -> Operation:
    return lambda image, amount: kind(image).enhance(1 + 0.9 * amount)


# name -> (image, amount) -> image; the amount is -1 to 1 for SIGNED, 0 to 1 for UNSIGNED. The
# ranges are torchvision's, where every operation becomes stronger with the magnitude.
SIGNED: dict[str, Operation] = {
    "shear_x": lambda image, amount: _moved(image, 1, 0.3 * amount, 0, 0, 1, 0),
    "shear_y": lambda image, amount: _moved(image, 1, 0, 0, 0.3 * amount, 1, 0),
    "translate_x": lambda image, a: _moved(image, 1, 0, 150 / 331 * image.width * a, 0, 1, 0),
    "translate_y": lambda image, a: _moved(image, 1, 0, 0, 0, 1, 150 / 331 * image.height * a),
    "rotate": lambda image, amount: image.rotate(
        30 * amount, Image.Resampling.BILINEAR, fillcolor=FILL
    ),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
}
UNSIGNED: dict[str, Operation] = {
    "identity": lambda image, _amount: image,
    "posterize": lambda image, amount: ImageOps.posterize(image, 8 - round(4 * amount)),
    "solarize": lambda image, amount: ImageOps.solarize(image, round(256 * (1 - amount))),
    "autocontrast": lambda image, _amount: ImageOps.autocontrast(image),
    "equalize": lambda image, _amount: ImageOps.equalize(image),
}
OPERATIONS = SIGNED | UNSIGNED


def rand_augment(
    out: np.ndarray, rng: np.random.Generator, *, layers: int, magnitude: float
) -> None:
    """Changes uint8 [h, w, 3] in place by `layers` operations, Cubuk et al. (2020).

    Each is drawn uniformly from all fourteen; an operation with two directions draws one. At
    magnitude 0 most operations change nothing; 10 is the strongest.
    """
    names = list(OPERATIONS)
    image = Image.fromarray(out)
    for _ in range(layers):
        name = names[rng.integers(len(names))]
        sign = rng.choice((-1, 1)) if name in SIGNED else 1
        image = OPERATIONS[name](image, float(sign * magnitude / HIGHEST))
    out[:] = np.asarray(image)
