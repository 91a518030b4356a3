"""A file of published weights -> a checkpoint of ours at step 0."""

import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from inception import UserError, train
from inception.data import imagenet
from inception.data.output import all_or_nothing
from inception.formats import caffe, torchvision
from inception.model import FREE_KNOBS, HEAD_CONV, GoogLeNet
from inception.runtime import checkpoint, sharding, workdir
from inception.step import first_state

# A format has LAYERS (our layer -> its name), PARTS (what a layer has -> what follows its name),
# KNOBS (what the network and its input are) and read(path) -> {name: array [out, in, ...]}.
FORMATS: dict[str, Any] = {"caffe": caffe, "torchvision": torchvision}
DENSE = ("fc", "classifier")


class Weights(NamedTuple):
    """What a file holds.

    arrays: by the file's names, in its layout; names: our variable, LAYER/PART -> its name in the
    file; knobs: of the config that these weights make, without 'config.'.
    """

    path: str
    arrays: dict[str, np.ndarray]
    names: dict[str, str]
    knobs: dict[str, Any]


def _is_head(variable: str) -> bool:
    return variable.startswith("head_")


def read(source: str, path: str) -> Weights:
    """Reads a file of `source`, a key of FORMATS.

    Raises:
        UserError: no such file, a damaged one, one of another kind.
    """
    kind = FORMATS[source]
    arrays = kind.read(path)
    names = {
        f"{layer}/{part}": name + suffix
        for layer, name in kind.LAYERS.items()
        for part, suffix in kind.PARTS.items()
        if ("/" in part) != (layer.split("/")[-1] in DENSE)
    }
    heads = all(names[variable] in arrays for variable in names if _is_head(variable))
    classes = arrays.get(names["classifier/bias"], np.zeros(1000)).size
    knobs = {"model.classes": classes, "model.heads": heads, "optim.polyak_decay": 0.0}
    knobs |= {"data.source": "folder", "data.eval_split": "val"}  # of data.path, yours to give
    return Weights(path, arrays, names, knobs | kind.KNOBS)


def _shown(names: list[str]) -> list[str]:
    """Each once; of Caffe's LAYER:BLOB the layer, which is what has a name in the file."""
    return list(dict.fromkeys(name.split(":")[0] for name in names))


def _check_fit(weights: Weights, model: dict[str, Any]) -> None:
    """Raises UserError where the file lacks something, or config.model is another network."""
    lacking = _shown(
        [
            name
            for variable, name in weights.names.items()
            if name not in weights.arrays and not _is_head(variable)
        ]
    )
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise UserError(
            f"--input={weights.path} lacks {', '.join(lacking[:5])}{more}: is it another network's?"
        )
    knobs = {knob.split(".")[1]: v for knob, v in weights.knobs.items() if knob[:6] == "model."}
    fitting = GoogLeNet(**knobs)
    for knob, value in model.items():
        needed = getattr(fitting, knob)
        if (knob not in FREE_KNOBS - {"head_pool"} and value != needed) or (
            knob == "heads" and value > needed
        ):
            raise UserError(
                f"config.model.{knob}={value}, but the weights in --input={weights.path} need "
                f"{needed}"
            )


def _to_ours(array: np.ndarray, variable: str) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]; [out, in] -> [in, out]; float32."""
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    if array.ndim == 2:
        if variable.endswith("/fc/kernel"):
            # NOTE: a head's convolution is flattened as (c, h, w) there and as (h, w, c) here.
            side = math.isqrt(array.shape[1] // HEAD_CONV)
            grid = array.reshape(-1, HEAD_CONV, side, side)
            array = grid.transpose(0, 2, 3, 1).reshape(array.shape)
        array = array.T
    return np.ascontiguousarray(array, np.float32)


def _variables(weights: Weights, shapes: Any) -> Any:
    """The file's arrays as the tree of `shapes`; UserError where one does not fit."""
    filled = {}
    for path, wanted in flatten_dict(shapes).items():
        variable = "/".join(path[1:])
        name = weights.names[variable]
        array = weights.arrays[name]
        where = f"--input={weights.path}: {name}"
        expected = wanted.shape[::-1]
        if len(expected) == 4:  # [h, w, in, out]
            expected = (*expected[:2], *wanted.shape[:2])
        if array.shape != expected:
            remedy = "is it another network's?"
            if _is_head(variable):
                remedy = "leave the heads out with --config.model.heads=False"
            raise UserError(
                f"{where} has shape {list(array.shape)}, and the network {list(expected)}: {remedy}"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"{where} is of {array.dtype}: take weights that are not quantized")
        filled[path] = _to_ours(array, variable)
        if not np.isfinite(filled[path]).all():
            raise UserError(f"{where} is not finite: the file is damaged, download it again")
    return unflatten_dict(filled)


def _classes(file: str, count: int) -> tuple[str, ...]:
    """What the outputs stand for: the file's lines, or else ImageNet's if they are so many."""
    if not file:
        fits = count == len(imagenet.CLASSES)
        return imagenet.CLASSES if fits else tuple(f"class {i}" for i in range(count))
    try:
        lines = pathlib.Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes={file} cannot be read: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != count:
        raise UserError(
            f"--classes={file} names {len(names)} classes, and the weights have {count}"
        )
    return names


def write(
    weights: Weights, config: ConfigDict, output: str, *, classes: str = ""
) -> dict[str, Any]:
    """Writes OUTPUT, a checkpoint DIR, when everything fits, and nothing otherwise.

    Args:
        config: the knobs of experiments/base.py with those of `weights`; of them those that do
            not make the network, and config.model.heads, may have been changed since.
        output: a new folder.
        classes: a file of the classes' names, a line each, in the order of the outputs.

    Returns:
        {'parameters': numbers converted, BatchNorm's statistics apart, 'ignored': the file's names
        that the network has no place for, 'missing': those of its auxiliary heads that the file
        lacks}.

    Raises:
        UserError: the weights are not this network's, they are not so many classes, or OUTPUT
            cannot be written.
    """
    _check_fit(weights, config.model.to_dict())
    names = _classes(classes, config.model.classes)
    steps_per_epoch = 1000  # any number: nothing in a first state depends on it
    total_steps = max(1, round(config.optim.epochs * steps_per_epoch))
    training = train.build(
        config, sharding.make_mesh(), steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )
    shapes = jax.eval_shape(training.init).raw_variables()
    variables = _variables(weights, shapes)
    state = first_state(variables, training.tx, polyak_decay=config.optim.polyak_decay)
    with all_or_nothing(output) as work:
        workdir.write_config(json.loads(config.to_json()), str(work))
        checkpoint.write_classes(str(work), names)
        checkpoints = checkpoint.Checkpoints(str(work))
        checkpoints.save(0, jax.device_get(state))
        checkpoints.close()
    used = {weights.names["/".join(path[1:])] for path in flatten_dict(shapes)}
    return {
        "parameters": sum(array.size for array in jax.tree.leaves(variables["params"])),
        "ignored": _shown([name for name in weights.arrays if name not in used]),
        "missing": _shown([n for n in weights.names.values() if n not in weights.arrays]),
    }
