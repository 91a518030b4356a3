"""Reads Caffe's bvlc_googlenet.caffemodel: a NetParameter with V1 or with current layers."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from inception import UserError
from inception.formats import protobuf
from inception.model import TABLE_1

FILE = ".caffemodel"
_BRANCHES = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
# The names in BVLC's train_val.prototxt.
LAYERS = {"conv1": "conv1/7x7_s2", "conv2_reduce": "conv2/3x3_reduce", "conv2": "conv2/3x3"}
LAYERS |= {f"{row}/{name}": f"inception_{row}/{name}" for row in TABLE_1 for name in _BRANCHES}
LAYERS["classifier"] = "loss3/classifier"
for _row, _head in (("4a", "loss1"), ("4d", "loss2")):
    LAYERS |= {f"head_{_row}/{name}": f"{_head}/{name}" for name in ("conv", "fc", "classifier")}
PARTS = {"Conv_0/kernel": ":0", "Conv_0/bias": ":1", "kernel": ":0", "bias": ":1"}
KNOBS = {"data.normalization": "mean", "data.resize": "squash", "data.resize_px": 256}

# The part of Caffe's caffe.proto that holds weights; raw_data is NVCaffe's, as in DIGITS.
MESSAGES = {
    "BlobShape": "repeated int64 dim = 1",
    "BlobProto": "optional int64 num = 1; optional int64 channels = 2; optional int64 height = 3;"
    "optional int64 width = 4; repeated float data = 5; optional BlobShape shape = 7;"
    "repeated double double_data = 8; optional int32 raw_data_type = 10;"
    "optional bytes raw_data = 12",
    "V1LayerParameter": "optional string name = 4; repeated BlobProto blobs = 6",
    "LayerParameter": "optional string name = 1; repeated BlobProto blobs = 7",
    "NetParameter": "repeated V1LayerParameter layers = 2; repeated LayerParameter layer = 100",
}


RAW = ("<f8", "<f4", "<f2")  # dtypes of raw_data, by raw_data_type


def net_parameter() -> Any:
    """The protobuf class of a .caffemodel, with the fields in MESSAGES."""
    return protobuf.message_class(MESSAGES, "NetParameter")


def _array(blob: Any, *, bias: bool) -> np.ndarray:
    """A blob as float32 [out, in, h, w], [out, in] or [out]; ValueError if its numbers are too few.

    Old blobs always have four axes, in their own fields or in `shape`: unused leading ones are 1.
    """
    if blob.HasField("raw_data"):
        values = np.frombuffer(blob.raw_data, RAW[blob.raw_data_type]).astype(np.float32)
    else:
        values = np.asarray(blob.data or blob.double_data, np.float32)
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    return values if bias else values.reshape(shape[2:] if shape[:2] == [1, 1] else shape)


def read(path: str) -> dict[str, np.ndarray]:
    """The weights ('LAYER:0') and biases ('LAYER:1') of a .caffemodel, float32 in Caffe's layout.

    NOTE: Caffe's images are BGR: the input channels of conv1 are reversed to RGB.

    Raises:
        UserError: the file has no weights; its text continues the file's name.
        Exception: of any kind, if the file is damaged.
    """
    net = net_parameter().FromString(pathlib.Path(path).read_bytes())
    arrays = {
        f"{layer.name}:{i}": _array(blob, bias=i > 0)
        for layer in (*net.layers, *net.layer)
        for i, blob in enumerate(layer.blobs)
    }
    if not arrays:
        raise UserError("holds no layer with weights: take the .caffemodel, not the .prototxt")
    conv1 = f"{LAYERS['conv1']}:0"
    if conv1 in arrays:
        arrays[conv1] = arrays[conv1][:, ::-1]
    return arrays


def layers(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """LAYERS, with the names that the classifiers have in this file.

    Caffe's recipe for fine-tuning renames the classifier, as to 'loss3/classifier_food', so that
    Caffe draws it anew. A renamed one has weights [n, 1024]. It is told by its prefix loss1/,
    loss2/ or loss3/, or as the only one left, or by its place: loss1, loss2, loss3.

    Raises:
        UserError: more than one layer may be a classifier; its text continues the file's name.
    """
    taken = {name for layer, name in LAYERS.items() if not layer.endswith("classifier")}
    wide = (name for name, array in arrays.items() if array.shape[1:] == (1024,))
    candidates = [n.removesuffix(":0") for n in wide if n.endswith(":0")]
    candidates = [name for name in candidates if name not in taken]
    found, rest = dict(LAYERS), []
    for layer in ("head_4a/classifier", "head_4d/classifier", "classifier"):
        loss = LAYERS[layer].removesuffix("classifier")
        named = [name for name in candidates if name.startswith(loss)]
        candidates = [name for name in candidates if name not in named]
        if len(named) > 1:
            raise _ambiguous(named, LAYERS[layer])
        if named:
            found[layer] = named[0]
        elif layer == "classifier" or f"{loss}fc:0" in arrays:
            rest.append(layer)
    if "classifier" in rest and candidates:
        if len(candidates) == 1:
            rest = ["classifier"]
        if len(candidates) != len(rest):
            raise _ambiguous(candidates, LAYERS["classifier"])
        found |= dict(zip(rest, candidates, strict=True))
    return found


def _ambiguous(names: list[str], name: str) -> UserError:
    several = ", ".join(names)
    return UserError(f"has several layers that may be {name} ({several}): save it with that one")
