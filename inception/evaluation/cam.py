"""Class activation maps: where in a picture the network sees a class, and drawings of the maps.

Zhou et al., "Learning Deep Features for Discriminative Localization" (2016): if a global average
precedes the classifier, the classifier can also be applied to each position of the last grid. The
mean of the resulting map is the logit.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inception import UserError, pixels
from inception.model import TABLE_1, GoogLeNet

LAST = list(TABLE_1)[-1]  # 5b
TILE_PX = 224  # the smallest side of one map in a drawing
CAPTION_PX = 22


def check(model: Mapping[str, Any]) -> None:
    """Raises UserError for a network that does not average: it has no maps."""
    if (top := model["top"]) != "average":
        raise UserError(f"`cam`: `top`={top} loses the positions: maps need `top=average`")


def maps(model: Mapping[str, Any], variables: Any, images: Any, *, normalization: str) -> Any:
    """Applies the classifier to each position of 5b's grid: float32 [b, h, w, classes].

    The mean over h and w is the logit.

    Args:
        model: GoogLeNet's fields.
        images: uint8 [b, px, px, 3].

    Raises:
        UserError: as `check`.
    """
    check(model)
    network = GoogLeNet(**model)
    return np.asarray(_maps(variables, images, model=network, normalization=normalization))


@functools.partial(jax.jit, static_argnames=("model", "normalization"))
def _maps(variables: Any, images: jax.Array, *, model: GoogLeNet, normalization: str) -> jax.Array:
    _, state = model.apply(
        variables,
        pixels.normalize(images, method=normalization),
        train=False,
        capture_intermediates=lambda module, _: module.name == LAST,
        mutable=["intermediates"],
    )
    (features,) = state["intermediates"][LAST]["__call__"]  # [b, h, w, 1024]
    classifier = variables["params"]["classifier"]
    positions = features.astype(jnp.float32) @ classifier["kernel"][None, None]
    return positions + classifier["bias"][None, None, None]


def draw(crop: np.ndarray, activation: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """Draws the crop, then each map over the crop from blue to red, with captions below.

    Args:
        crop: uint8 [px, px, 3].
        activation: [n, h, w], any range; blue is the minimum over all maps, red the maximum.
        captions: n + 1 texts; the first is for the crop.
    """
    px = max(TILE_PX, len(crop))
    crop = cv2.resize(crop, (px, px), interpolation=cv2.INTER_CUBIC)
    tiles = [crop]
    large = np.stack(
        [
            cv2.resize(one.astype(np.float32), (px, px), interpolation=cv2.INTER_CUBIC)
            for one in activation
        ]
    )
    heats = (large - large.min()) / max(np.ptp(large), 1e-12) * 255  # a constant map is blue
    for heat in heats.round().astype(np.uint8):
        colored = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
        tiles.append(cv2.addWeighted(crop, 0.5, colored, 0.5, 0))
    sheet = Image.new("RGB", ((px + 4) * len(tiles) - 4, px + CAPTION_PX), "white")
    font, pen = ImageFont.load_default(size=13), ImageDraw.Draw(sheet)
    for i, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        sheet.paste(Image.fromarray(tile), (i * (px + 4), 0))
        while font.getlength(caption) > px:
            caption = caption.removesuffix("...")[:-1] + "..."
        pen.text((i * (px + 4), px + 3), caption, font=font, fill="black")
    return sheet
