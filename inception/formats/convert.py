"""Converts a file of published weights to a checkpoint at step 0."""

import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from inception import UserError, optim
from inception.data import imagenet, paths, whole
from inception.formats import caffe, onnx_zoo, slim, torchvision
from inception.model import FREE_KNOBS, HEAD_CONV, GoogLeNet
from inception.runtime import checkpoint
from inception.runtime import weights as to_folder
from inception.step import TrainState, first_state

# A format defines FILE (its name in messages), PARTS (a layer's array -> its name's suffix), KNOBS
# (of the network and its input), read(path) -> {name: array [out, in, ...]} and
# layers(arrays) -> {our layer: its name in the file}.
FORMATS: dict[str, Any] = {
    "caffe": caffe,
    "torchvision": torchvision,
    "onnx": onnx_zoo,
    "slim": slim,
}
DENSE = ("fc", "classifier")


class Weights(NamedTuple):
    """The content of a file.

    arrays: by the file's names, in its layout; names: our variable, LAYER/PART -> its name in the
    file; knobs: of the network and the input that the weights need.
    """

    path: str
    arrays: dict[str, np.ndarray]
    names: dict[str, str]
    knobs: dict[str, Any]


def read(source: str, path: str) -> Weights:
    """Reads a file of `source`, a key of FORMATS.

    Raises:
        UserError: the file is missing, damaged, or of another kind.
    """
    kind = FORMATS[source]
    try:
        arrays = kind.read(os.path.expanduser(path))
        layers = kind.layers(arrays)
    except UserError as error:
        raise UserError(f"`input`={path} {error}") from error
    except OSError as error:
        raise UserError(f"`input`={path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file makes the libraries raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"`input`={path} is damaged, or no {kind.FILE} ({reason}): download it again"
        ) from error
    names = {
        f"{layer}/{part}": name + suffix
        for layer, name in layers.items()
        for part, suffix in kind.PARTS.items()
        if ("/" in part) != (layer.split("/")[-1] in DENSE)
    }
    classes = arrays.get(names["classifier/bias"], np.zeros(1000)).size
    # Heads that are not whole, or classify something else, are left out: often only the main
    # classifier was replaced for fine-tuning.
    of_heads = [(variable, name) for variable, name in names.items() if variable[:5] == "head_"]
    heads = bool(of_heads) and all(
        name in arrays and (not v.endswith("classifier/bias") or arrays[name].size == classes)
        for v, name in of_heads
    )
    knobs = {"model.classes": classes, "model.heads": heads, "optim.polyak_decay": 0.0}
    knobs |= {"data.source": "folder", "data.eval_split": "val"}  # the user gives data.path
    return Weights(path, arrays, names, knobs | kind.KNOBS)


def layer_names(names: Iterable[str]) -> list[str]:
    """Each name once; Caffe's LAYER:BLOB becomes LAYER, the only name in the file."""
    return list(dict.fromkeys(name.split(":")[0] for name in names))


def check_network(weights: Weights, model: Mapping[str, Any]) -> None:
    """Raises UserError if the file lacks weights, or does not fit the config's network."""
    needed = (name for variable, name in weights.names.items() if not variable.startswith("head_"))
    if lacking := layer_names(name for name in needed if name not in weights.arrays):
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise UserError(
            f"`input`={weights.path} lacks {', '.join(lacking[:5])}{more}: is it another network's?"
        )
    fitting = GoogLeNet(
        **{k.removeprefix("model."): v for k, v in weights.knobs.items() if k.startswith("model.")}
    )
    for knob, value in model.items():
        own = getattr(fitting, knob)
        fixed = knob not in FREE_KNOBS - {"head_pool"}
        if (fixed and value != own) or (knob == "heads" and value > own):
            raise UserError(
                f"`model.{knob}`={value}, but the weights in `input`={weights.path} need {own}"
            )


def to_flax(array: np.ndarray, variable: str) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]; [out, in] -> [in, out]; float32."""
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    if array.ndim == 2:
        if variable.endswith("/fc/kernel"):
            # NOTE: the file flattens a head's convolution as (c, h, w), our network as (h, w, c).
            side = math.isqrt(array.shape[1] // HEAD_CONV)
            grid = array.reshape(-1, HEAD_CONV, side, side)
            array = grid.transpose(0, 2, 3, 1).reshape(array.shape)
        array = array.T
    return np.ascontiguousarray(array, np.float32)


def to_variables(weights: Weights, shapes: Any) -> Any:
    """The file's arrays as the tree of `shapes`; raises UserError if one does not fit."""
    variables = {}
    for path, wanted in flatten_dict(shapes).items():
        variable = "/".join(path[1:])
        name = weights.names[variable]
        array = weights.arrays[name]
        where = f"`input`={weights.path}: {name}"
        expected = wanted.shape[::-1]  # kernels are square
        if array.shape != expected:
            remedy = "is it another network's?"
            if variable.startswith("head_"):
                remedy = "leave the heads out with `heads=False`"
            raise UserError(
                f"{where} has shape {list(array.shape)}, and the network {list(expected)}: {remedy}"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"{where} is of {array.dtype}: take weights that are not quantized")
        variables[path] = to_flax(array, variable)
        if not np.isfinite(variables[path]).all():
            raise UserError(f"{where} is not finite: the file is damaged, download it again")
    return unflatten_dict(variables)


def class_names(file: str, count: int) -> tuple[str, ...]:
    """A file's lines, by output; without a file, ImageNet's classes if `count` fits, or numbers.

    One output more than ImageNet's classes is TensorFlow's: its first is 'background'.
    """
    if not file:
        known = (imagenet.CLASSES, ("background", *imagenet.CLASSES))
        unknown = checkpoint.numbered(count)
        return next((classes for classes in known if len(classes) == count), unknown)
    with paths.explained(f"`classes`={file} cannot be read", errors=(OSError, UnicodeDecodeError)):
        lines = pathlib.Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != count:
        raise UserError(
            f"`classes`={file} names {len(names)} classes, and the weights have {count}"
        )
    return names


def write(
    weights: Weights,
    config: dict[str, Any],
    output: str,
    *,
    init: Callable[[], TrainState],
    tx: optax.GradientTransformation,
    classes: str = "",
) -> dict[str, Any]:
    """Writes `output`, a folder like a run's, if everything fits; otherwise writes nothing.

    Args:
        config: has the knobs of `weights`; model.heads, and knobs that do not make the network,
            may differ.
        init, tx: the first state of a run with this config, only traced, and its optimizer.
        classes: as `class_names` reads it.

    Returns:
        {'parameters': the number converted, without BatchNorm's statistics, 'ignored': names that
        only the file contains, 'missing': names of auxiliary heads that the file lacks}.

    Raises:
        UserError: weights or classes of another network; an `output` that cannot be written.
    """
    check_network(weights, config["model"])
    names = class_names(classes, config["model"]["classes"])
    shapes = jax.eval_shape(init).raw_variables()
    variables = to_variables(weights, shapes)
    averaged = optim.averaging(*(config["optim"][k] for k in ("name", "polyak_decay"))) is not None
    state = first_state(variables, tx, averaged=averaged)
    written = paths.explained(f"`output`={output} cannot be written")
    with written, whole.all_or_nothing(output) as folder:
        to_folder.write(folder, config, names, state)
    used = {weights.names["/".join(path[1:])] for path in flatten_dict(shapes)}
    return {
        "parameters": sum(array.size for array in jax.tree.leaves(variables["params"])),
        "ignored": layer_names(name for name in weights.arrays if name not in used),
        "missing": layer_names(n for n in weights.names.values() if n not in weights.arrays),
    }
