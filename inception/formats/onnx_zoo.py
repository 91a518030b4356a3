"""Reads the ONNX zoo's googlenet and inception-v1, which are Caffe's network under its names.

The zoo's files came from Caffe through Caffe2, which calls a layer's weights LAYER_w_0 and its
biases LAYER_b_0. They have no auxiliary heads. The package onnx is not needed.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from inception import UserError
from inception.formats import caffe, protobuf

FILE = ".onnx of the ONNX zoo's googlenet or inception-v1"
PARTS = {"Conv_0/kernel": "_w_0", "Conv_0/bias": "_b_0", "kernel": "_w_0", "bias": "_b_0"}
KNOBS = caffe.KNOBS

# The part of ONNX's onnx.proto that holds weights.
MESSAGES = {
    "TensorProto": "repeated int64 dims = 1; optional int32 data_type = 2;"
    "repeated float float_data = 4; repeated int32 int32_data = 5; optional string name = 8;"
    "optional bytes raw_data = 9; repeated double double_data = 10;"
    "optional int32 data_location = 14",
    "GraphProto": "repeated TensorProto initializer = 5",
    "ModelProto": "optional string producer_name = 2; optional GraphProto graph = 7",
}
DTYPES = {1: np.float32, 10: np.float16, 11: np.float64, 16: jnp.bfloat16}  # by data_type
BYTES = (2, 3)  # data_types uint8 and int8


def model_proto() -> Any:
    """The protobuf class of a .onnx file, with the fields in MESSAGES."""
    return protobuf.message_class(MESSAGES, "ModelProto")


def _array(tensor: Any) -> np.ndarray:
    """An initializer; ValueError if its numbers are too few."""
    dtype = np.dtype(DTYPES[tensor.data_type])
    if tensor.HasField("raw_data"):
        values = np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).astype(dtype, copy=False)
    elif tensor.int32_data:  # the bits of 16-bit floats
        values = np.asarray(tensor.int32_data, np.uint16).view(dtype)
    else:
        values = np.asarray(tensor.float_data or tensor.double_data, dtype)
    return values.reshape(list(tensor.dims))


def read(path: str) -> dict[str, np.ndarray]:
    """The float initializers of a .onnx file by name, in ONNX's layout, which is Caffe's.

    NOTE: the network takes BGR, as Caffe's: the input channels of conv1 are reversed to RGB.

    Raises:
        UserError: weights outside the file or of 8 bits, or an export of this package; its text
            continues the file's name.
        Exception: of any kind, if the file is damaged.
    """
    model = model_proto().FromString(pathlib.Path(path).read_bytes())
    if model.producer_name == "inception":
        raise UserError("was written by export: take the run's folder that it was exported from")
    if any(tensor.data_location for tensor in model.graph.initializer):
        raise UserError(
            "keeps weights in other files: onnx.save(onnx.load(FILE), NEW) makes it one"
        )
    if any(t.data_type in BYTES and len(t.dims) > 1 for t in model.graph.initializer):
        raise UserError("has weights of 8 bits: take the file without -int8 or -qdq in its name")
    arrays = {t.name: _array(t) for t in model.graph.initializer if t.data_type in DTYPES}
    if not arrays:
        raise UserError("holds no weights: take the .onnx file of the zoo")
    conv1 = caffe.LAYERS["conv1"] + PARTS["Conv_0/kernel"]
    if conv1 in arrays:
        arrays[conv1] = arrays[conv1][:, ::-1]
    return arrays


def layers(_arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Our layers -> Caffe's names, which are the file's."""
    return caffe.LAYERS
