"""What the inspections share: passes of images, what is right, and checks of names and labels."""

import difflib
from collections.abc import Collection, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from inception import UserError
from inception.data.progress import bar
from inception.model import GoogLeNet

BATCH = 25  # images of a pass: about 0.3 GB of activations at 224 px


def batches(images: np.ndarray, does: str) -> Iterator[slice]:
    """Slices of at most BATCH images, under a bar that says what the pass `does`.

    Raises:
        ValueError: no images.
    """
    if not len(images):
        raise ValueError("there are no images")
    starts = range(0, len(images), BATCH)
    yield from (slice(i, i + BATCH) for i in bar(starts, desc=does, unit="batch", leave=False))


def graded(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the largest logit is the label's, bool [b], and the cross-entropy, float32 [b]."""
    rows = jnp.arange(len(labels))
    return logits.argmax(-1) == labels, -jax.nn.log_softmax(logits)[rows, labels]


def check_labels(model: GoogLeNet, images: np.ndarray, labels: np.ndarray) -> None:
    """Raises ValueError unless there is a label from 0 to classes - 1 for each of the images."""
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels: give one for each image")
    if not np.isin(labels, np.arange(model.classes)).all():
        raise ValueError(f"labels must be from 0 to {model.classes - 1}")


def check_name(layer: str, names: Collection[str]) -> None:
    """Raises UserError, which gives the nearest name, unless `layer` is one of the names."""
    if layer not in names:
        (near,) = difflib.get_close_matches(layer, names, n=1, cutoff=0.0)
        raise UserError(f"`layers`={layer}: there is no such layer; the nearest is {near}")
