"""A trained network as one file for other programs: safetensors, StableHLO or ONNX."""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy
from jax import export

from inception import UserError, kernels, pixels
from inception.evaluation.networks import load
from inception.model import GoogLeNet
from inception.runtime.checkpoint import Trained

FORMATS = {".safetensors": "safetensors", ".stablehlo": "stablehlo", ".onnx": "onnx"}
PLATFORMS = ("cpu", "cuda", "tpu")


def probabilities(
    variables: Any, images: jax.Array, *, model: nn.Module, normalization: str
) -> jax.Array:
    """uint8 [b, px, px, 3] of RGB -> each class's probability, float32 [b, classes]."""
    logits: Any = model.apply(
        variables, pixels.normalize(images, method=normalization), train=False
    )
    return jax.nn.softmax(logits["main"])


def inference_function(trained: Trained) -> Callable[[jax.Array], jax.Array]:
    """`probabilities` of these variables: they are constants in it.

    NOTE: it computes in float32, whatever config.model.dtype was in training.
    """
    model = GoogLeNet(**{**trained.config["model"], "dtype": "float32"})
    normalization = trained.config["data"]["normalization"]
    return functools.partial(
        probabilities, trained.variables, model=model, normalization=normalization
    )


def without_heads(trained: Trained) -> Trained:
    """Without what inference does not read: the auxiliary heads."""
    variables = {
        collection: {name: tree[name] for name in tree if not name.startswith("head_")}
        for collection, tree in trained.variables.items()
    }
    return trained._replace(variables=variables)


def metadata(trained: Trained) -> dict[str, str]:
    """What rebuilds the network and names its outputs: 'config', 'classes', 'step', as JSON."""
    return {key: json.dumps(getattr(trained, key)) for key in ("config", "classes", "step")}


def to_safetensors(trained: Trained) -> bytes:
    """Every array by its path in the tree, as in 'params/3a/5x5_reduce/Conv_0/kernel'.

    NOTE: kernels are [h, w, in, out], as Flax keeps them; torch has [out, in, h, w].
    """
    arrays = flax.traverse_util.flatten_dict(trained.variables, sep="/")
    contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata(trained))


def to_stablehlo(trained: Trained) -> bytes:
    """`jax.export`'s serialisation of the inference function, for any batch size."""
    px = trained.config["input_px"]
    shape = export.symbolic_shape(f"batch, {px}, {px}, 3")
    function = jax.jit(kernels.on("any")(inference_function(trained)))
    exported = export.export(function, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, np.uint8))
    return bytes(exported.serialize())


def _parameters(trained: Trained) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"]))


def run(checkpoint_dir: str, output: str, *, best: bool = False) -> dict[str, Any]:
    """Writes the newest checkpoint's network, or the best's, to a file: FORMATS by its suffix.

    A file that is there is replaced, by a whole one.

    Returns:
        {'file', 'format', 'parameters': how many the file holds}; of ONNX also 'opset'.

    Raises:
        UserError: no checkpoint or one of another network, the package onnx is missing, ONNX lacks
            what the network has, the file cannot be written.
    """
    path = pathlib.Path(output)
    format = FORMATS[path.suffix.lower()]
    result: dict[str, Any] = {"file": output, "format": format}
    if format == "onnx":
        try:
            from inception.formats import to_onnx
        except ImportError as error:
            raise UserError(
                f"--output={output} needs the package onnx: "
                "pip install -c requirements.txt -e '.[export]'"
            ) from error
    trained = load(checkpoint_dir, best=best)
    if format == "safetensors":
        content = to_safetensors(trained)
    else:
        trained = without_heads(trained)
        if format == "stablehlo":
            content = to_stablehlo(trained)
        else:
            px = trained.config["input_px"]
            model = to_onnx.convert(
                inference_function(trained),
                image_shape=(px, px, 3),
                output="probabilities",
                metadata=metadata(trained),
            )
            content = model.SerializeToString()
            result["opset"] = to_onnx.OPSET
    whole = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            whole.write_bytes(content)
            whole.replace(path)
        finally:
            whole.unlink(missing_ok=True)  # a full disk leaves no half file
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error}") from error
    return {**result, "parameters": _parameters(trained)}
