"""Reads TF-slim's inception_v1.ckpt, a checkpoint of TensorFlow in either of its formats.

NOTE: this is torchvision's network without heads: BatchNorm after every convolution, no LRN, 3x3
where the paper has 5x5, a 2x2 max pool after 4e. In addition BatchNorm has no scale, convolutions
have TensorFlow's SAME padding, and output 0 of 1001 is 'background'. The names are those of
tensorflow/models, research/slim/nets/inception_v1.py.
"""

import pathlib
from collections.abc import Mapping

import numpy as np

from inception import UserError
from inception.formats import tf_checkpoint
from inception.model import TABLE_1

FILE = "checkpoint of TensorFlow"
_SCOPE = "InceptionV1"
_BRANCHES = {
    "1x1": "Branch_0/Conv2d_0a_1x1",
    "3x3_reduce": "Branch_1/Conv2d_0a_1x1",
    "3x3": "Branch_1/Conv2d_0b_3x3",
    "5x5_reduce": "Branch_2/Conv2d_0a_1x1",
    "5x5": "Branch_2/Conv2d_0b_3x3",
    "pool_proj": "Branch_3/Conv2d_0b_1x1",
}
LAYERS = {
    "conv1": f"{_SCOPE}/Conv2d_1a_7x7",
    "conv2_reduce": f"{_SCOPE}/Conv2d_2b_1x1",
    "conv2": f"{_SCOPE}/Conv2d_2c_3x3",
}
for _row in TABLE_1:
    _mixed = f"{_SCOPE}/Mixed_{_row[0]}{chr(ord(_row[1]) + 1)}"  # slim counts from b
    LAYERS |= {f"{_row}/{ours}": f"{_mixed}/{name}" for ours, name in _BRANCHES.items()}
LAYERS["5a/5x5"] = f"{_SCOPE}/Mixed_5b/Branch_2/Conv2d_0a_3x3"  # the one with another name
LAYERS["classifier"] = f"{_SCOPE}/Logits/Conv2d_0c_1x1"
PARTS = {
    "Conv_0/kernel": "/weights",
    "BatchNorm_0/scale": "/BatchNorm/gamma",
    "BatchNorm_0/bias": "/BatchNorm/beta",
    "BatchNorm_0/mean": "/BatchNorm/moving_mean",
    "BatchNorm_0/var": "/BatchNorm/moving_variance",
    "kernel": "/weights",
    "bias": "/biases",
}
KNOBS = {
    "model.norm": "batch",
    "model.conv5x5_px": 3,
    "model.pool4_px": 2,
    "model.padding": "same",
    "model.dropout": 0.2,
    "data.normalization": "symmetric",
    "data.resize": "central_crop",
    "data.resize_px": 256,  # of which 224 are 87.5%
}


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by slim's names, [out, in, h, w] or [out, in].

    Scales that the file lacks are ones: slim's BatchNorm has none, unless it is asked for.

    Raises:
        UserError: a file of another kind; its text continues the file's name.
    """
    if pathlib.Path(path).suffix == ".pb":
        raise UserError(_graph(pathlib.Path(path).read_bytes()))
    arrays = tf_checkpoint.read(path)
    classifier = LAYERS["classifier"] + PARTS["kernel"]
    for name, array in list(arrays.items()):
        if array.ndim == 4:
            array = arrays[name] = array.transpose(3, 2, 0, 1)
        if name == classifier and array.shape[2:] == (1, 1):
            arrays[name] = array[:, :, 0, 0]
        layer = name.removesuffix(PARTS["BatchNorm_0/bias"])
        if layer != name:
            arrays.setdefault(layer + PARTS["BatchNorm_0/scale"], np.ones_like(array))
    return arrays


def _graph(content: bytes) -> str:
    """Why a .pb file is refused."""
    if b"mixed4a_3x3_pre_relu" in content:  # Lucid's inception5h
        return (
            "is inception5h, another network: its LRN spans nine channels with an exponent of .5, "
            "and its 4a has 204 filters of 3x3 in place of 208"
        )
    return "is a graph, not a checkpoint: take the .ckpt file that it was made from"


def layers(_arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """LAYERS; the network has no heads."""
    return LAYERS
