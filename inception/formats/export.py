"""A trained network as one file for other programs: safetensors, StableHLO or ONNX."""

import functools
import json
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy
from jax import export

from inception import UserError, kernels
from inception.data import outputs, paths
from inception.evaluation.networks import eval_step
from inception.model import GoogLeNet
from inception.runtime.weights import Trained, load_network

PLATFORMS = ("cpu", "cuda", "tpu")
OPSET = 18  # of 2022: older runtimes read it, and the network needs no newer operators
INSTALL = "pip install -c requirements.txt -e '.[export]'"


def inference_function(trained: Trained) -> Callable[[jax.Array], jax.Array]:
    """uint8 [b, px, px, 3] of RGB -> each class's probability, float32 [b, classes].

    NOTE: it computes in float32, whatever config.model.dtype was in training.
    """
    logits = functools.partial(
        eval_step,
        trained.variables,
        model=GoogLeNet(**{**trained.config["model"], "dtype": "float32"}),
        normalization=trained.config["data"]["normalization"],
    )
    return lambda images: jax.nn.softmax(logits({"image": images})["logits"])


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


def stablehlo_file(trained: Trained, batch_size: int | None = None) -> bytes:
    """`jax.export`'s serialisation of the inference function, for any batch size or for one.

    NOTE: if a later jax wrote it for any size, jax 0.10 reads it, but fails when it calls it.
    """
    px = trained.config["input_px"]
    shape = export.symbolic_shape(f"{batch_size or 'batch'}, {px}, {px}, 3")
    function = jax.jit(kernels.on("any")(inference_function(trained)))
    exported = export.export(function, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, np.uint8))
    return bytes(exported.serialize())


def onnx_file(trained: Trained, calibration: str = "") -> bytes:
    """The inference function as an ONNX model, for any batch size; needs the package onnx.

    Args:
        calibration: pictures, as for `pictures.find`, from which 8-bit activations take their
            ranges; needs onnxruntime. '': float32.
    """
    try:
        from inception.formats import to_onnx
    except ImportError as error:
        raise UserError(f"`output`: .onnx needs the package onnx: {INSTALL}") from error
    convert = functools.partial(to_onnx.convert, trained, opset=OPSET, metadata=metadata(trained))
    if not calibration:
        return convert().SerializeToString()
    try:
        from inception.formats import int8
    except ImportError as error:
        raise UserError(f"`int8` needs the package onnxruntime: {INSTALL}") from error
    images = int8.calibration_images(calibration, trained.config)
    return int8.quantized(convert(for_int8=True), images).SerializeToString()


KINDS = {  # bytes in the first MB of our files of each kind
    ".safetensors": b'"params/conv1/',
    ".stablehlo": b"StableHLO",
    ".onnx": b"\x12\x09inception",  # producer_name
}
FORMATS: dict[str, Callable[..., bytes]] = {
    ".safetensors": safetensors_file,
    ".stablehlo": stablehlo_file,
    ".onnx": onnx_file,
}


def run(checkpoint_dir: str, output: str, *, best: bool = False, **options: Any) -> dict[str, Any]:
    """Writes the newest checkpoint's network, or the best's, in the format of the file's suffix.

    An existing file of the same kind is replaced once the new one is whole. `options`: arguments of
    the format's function.

    Returns:
        {'file', 'format', 'parameters': the number in the file}; for ONNX also 'opset'.

    Raises:
        UserError: no checkpoint, or another network's; a missing package; an unreadable picture;
            before the work, an `output` that cannot be written or is another kind of file.
    """
    suffix = paths.at(output).suffix.lower()
    outputs.check(output=(output, KINDS[suffix]))
    trained = load_network(checkpoint_dir, best=best)
    outputs.write(output, FORMATS[suffix](trained, **options))
    layers = trained.variables["params"]  # inference does not read the auxiliary heads
    held = [layers[n] for n in layers if suffix == ".safetensors" or not n.startswith("head_")]
    return {
        "file": output,
        "format": suffix.removeprefix("."),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(held)),
        **({"opset": OPSET} if suffix == ".onnx" else {}),
    }
