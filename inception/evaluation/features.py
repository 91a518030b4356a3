"""Features of pictures: a layer's activations, and the .npz file of `launch.py features`.

NOTE: in the network ReLU follows pool1, pool3 and pool4 instead of preceding them. Here conv1, 3b
and 4e are as in the paper, after ReLU.
"""

import functools
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from inception import UserError, ops, pixels
from inception.data import outputs, paths
from inception.evaluation.networks import Networks
from inception.evaluation.pictures import Picture
from inception.evaluation.predict import Predictor
from inception.model import TRUNK, Conv, GoogLeNet, Inception

CLASSIFIER = "classifier"
KIND = b"features.npy"  # the name of the first array in a file of `write`


def activations(model: GoogLeNet, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Each layer's activations of normalised images, in evaluation, by name.

    conv1, 3a and the like and their convolutions, as 4a/3x3, [b, h, w, c]; what the classifier
    reads, [b, c], as pool5 or, where `top` is fc, as fc; the classifier's logits, [b, classes].
    """
    _, state = model.apply(
        variables,
        images,
        train=False,
        capture_intermediates=lambda module, _: (
            isinstance(module, Conv | Inception | ops.Dropout) or module.name == CLASSIFIER
        ),
        mutable=["intermediates"],
    )
    layers: dict[str, jax.Array] = {}
    for (*path, _), (x,) in flatten_dict(state["intermediates"]).items():
        name = "/".join(path)
        if name.startswith("Dropout"):
            layers["pool5" if model.top == "average" else model.top] = x
        else:
            layers[name] = x if name == CLASSIFIER else ops.relu(x)
    return layers


class OfLayer(Networks):
    """Networks whose outputs have a layer's 'features' too, float32 [b, ...], to be averaged."""

    def __init__(self, layer: str, *args: Any):
        self.step = functools.partial(_step, layer=layer)
        super().__init__(*args)

    def value(self, outputs: dict[str, np.ndarray], only: Sequence[int]) -> np.ndarray:
        """The features, where the base class has the softmax."""
        del only
        return outputs["features"]


def _step(
    variables: Any,
    batch: dict[str, jax.Array],
    *,
    model: GoogLeNet,
    normalization: str,
    layer: str,
) -> dict[str, jax.Array]:
    images = pixels.normalize(batch["image"], method=normalization)
    layers = activations(model, variables, images)
    return {
        **{key: value for key, value in batch.items() if key != "image"},
        "logits": layers[CLASSIFIER].astype("float32"),
        "features": layers[layer].astype("float32"),
    }


def shape(predictor: Predictor, layer: str) -> tuple[int, ...]:
    """The shape of a picture's features: (1024,), or of a grid (h, w, c).

    Raises:
        UserError: an ensemble; no such layer, with those that there are.
    """
    if len(predictor.configs) > 1:
        raise UserError("features are those of one network: give one folder")
    (config,), (variables,) = predictor.configs, predictor.variables
    images = jax.ShapeDtypeStruct((1, config.input_px, config.input_px, 3), "float32")
    found = jax.eval_shape(
        functools.partial(activations, GoogLeNet(**config.model)), variables, images
    )
    if layer not in found:
        whole = [name for name in TRUNK if name in found]
        whole += sorted(name for name in found if "/" not in name and name not in TRUNK)
        inside = sorted({name.split("/")[1] for name in found if "/" in name})
        raise UserError(
            f"`layer`={layer}: there are {', '.join(whole)}; and in 3a to 5b {', '.join(inside)}, "
            f"as 4a/{inside[0]}"
        )
    return found[layer].shape[1:]


def each(
    predictor: Predictor, pictures: Iterable[Picture], *, layer: str = "pool5", crops: int = 1
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields each picture's path or number, why it cannot be read or '', and its features.

    Args:
        layer: one of `activations`. float32 [c], averaged over the crops, or of a grid [h, w, c].
        crops: 1, 10 or 144; of a grid 1, for a position is elsewhere in every crop.

    Raises:
        UserError: as `shape`; several crops of a grid.
    """
    if len(shape(predictor, layer)) > 1 and crops > 1:
        raise UserError(f"`crops`={crops}: {layer} has positions, which differ from crop to crop")
    networks = OfLayer(layer, predictor.configs, predictor.mesh)
    for image, error, row in predictor.averages(pictures, networks, crops=crops):
        yield image, error, row[0]


def check(output: str, size: int) -> None:
    """Before the work, raises UserError if the file cannot be written, or the disk is too small.

    Args:
        size: the bytes of all features; while `write` works they are there twice.
    """
    outputs.check(output=(output, KIND))
    with paths.explained(f"`output`={output} cannot be written"):
        folder = pathlib.Path(output).expanduser().parent
        folder.mkdir(parents=True, exist_ok=True)
        if 2 * size > (free := shutil.disk_usage(folder).free):
            raise UserError(
                f"`output`={output}: the features take {2 * size / 1e9:.1f} GB while they are "
                f"written, and the disk has {free / 1e9:.1f} GB free: name a file on another disk"
            )


def write(
    output: str, rows: Iterable[tuple[str, np.ndarray]], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Writes OUTPUT as rows come, at its end whole; returns the shape of its features.

    The file is NumPy's .npz: `features`, float32 [n, ...], and `images`, the n names. Without rows
    there is none.
    """
    path, names = pathlib.Path(output).expanduser(), []
    unfinished = path.with_name(f".{path.name}.unfinished")
    with (
        paths.explained(f"`output`={output} cannot be written"),
        tempfile.TemporaryFile(dir=path.parent) as held,
    ):
        for name, row in rows:
            held.write(row.astype(np.float32).tobytes())
            names.append(name)
        held.flush()
        if names:
            features = np.memmap(held, np.float32, "r", shape=(len(names), *shape))
            try:
                with open(unfinished, "wb") as file:
                    np.savez(file, features=features, images=np.asarray(names))
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
    return len(names), *shape
