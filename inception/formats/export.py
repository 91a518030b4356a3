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
    """Without the auxiliary heads, which inference does not read."""
    variables = {
        collection: {name: tree[name] for name in tree if not name.startswith("head_")}
        for collection, tree in trained.variables.items()
    }
    return trained._replace(variables=variables)


def metadata(trained: Trained) -> dict[str, str]:
    """'config', 'classes' and 'step' as JSON: a reader can rebuild the network and name outputs."""
    return {key: json.dumps(getattr(trained, key)) for key in ("config", "classes", "step")}


def safetensors_file(trained: Trained) -> bytes:
    """Every array by its path in the tree, as in 'params/3a/5x5_reduce/Conv_0/kernel'.

    NOTE: kernels are [h, w, in, out], as Flax keeps them; torch has [out, in, h, w].
    """
    arrays = flax.traverse_util.flatten_dict(trained.variables, sep="/")
    contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata(trained))


def stablehlo_file(trained: Trained) -> bytes:
    """`jax.export`'s serialisation of the inference function, for any batch size."""
    px = trained.config["input_px"]
    shape = export.symbolic_shape(f"batch, {px}, {px}, 3")
    function = jax.jit(kernels.on("any")(inference_function(trained)))
    exported = export.export(function, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, np.uint8))
    return bytes(exported.serialize())


def onnx_file(trained: Trained) -> bytes:
    """The inference function as an ONNX model, for any batch size; needs the package onnx."""
    from inception.formats import to_onnx

    px = trained.config["input_px"]
    model = to_onnx.convert(
        inference_function(trained),
        image_shape=(px, px, 3),
        output="probabilities",
        metadata=metadata(trained),
    )
    return model.SerializeToString()


FORMATS = {".safetensors": safetensors_file, ".stablehlo": stablehlo_file, ".onnx": onnx_file}


def run(checkpoint_dir: str, output: str, *, best: bool = False) -> dict[str, Any]:
    """Writes the newest checkpoint's network, or the best's, to a file: FORMATS by its suffix.

    An existing file is replaced once the new one is whole.

    Returns:
        {'file', 'format', 'parameters': how many the file holds}; of ONNX also 'opset'.

    Raises:
        UserError: no checkpoint or one of another network, the package onnx is missing, ONNX lacks
            an operation of the network, the file cannot be written.
    """
    path = pathlib.Path(output)
    suffix = path.suffix.lower()
    result: dict[str, Any] = {"file": output, "format": suffix.removeprefix(".")}
    if suffix == ".onnx":
        try:
            from inception.formats.to_onnx import OPSET
        except ImportError as error:
            raise UserError(
                f"`output`={output} needs the package onnx: "
                "pip install -c requirements.txt -e '.[export]'"
            ) from error
        result["opset"] = OPSET
    trained = load(checkpoint_dir, best=best)
    if suffix != ".safetensors":
        trained = without_heads(trained)
    content = FORMATS[suffix](trained)
    whole = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            whole.write_bytes(content)
            whole.replace(path)
        finally:
            whole.unlink(missing_ok=True)  # a full disk leaves no half file
    except OSError as error:
        raise UserError(f"`output`={output} cannot be written: {error}") from error
    leaves = jax.tree.leaves(trained.variables["params"])
    return {**result, "parameters": sum(leaf.size for leaf in leaves)}
