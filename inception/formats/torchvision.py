"""Reads torchvision.models.googlenet's state_dict: PyTorch's .pth file, or .safetensors.

NOTE: the network is TF-slim's: BatchNorm after every convolution, no LRN, 3x3 where the paper has
5x5, a 2x2 max pool after 4e, and heads that pool to 4x4. The weights named aux1 belong to 4a and
aux2 to 4d: until late 2024 torchvision returned the two outputs swapped (pytorch/vision#8736).
"""

import pathlib
from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from inception import UserError
from inception.formats import torch_file
from inception.model import TABLE_1

FILE = "state_dict in .pth or .safetensors"
_BRANCHES = {
    "1x1": "branch1",
    "3x3_reduce": "branch2.0",
    "3x3": "branch2.1",
    "5x5_reduce": "branch3.0",
    "5x5": "branch3.1",
    "pool_proj": "branch4.1",
}
_HEAD = {"conv": "conv", "fc": "fc1", "classifier": "fc2"}
LAYERS = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3"}
for _row in TABLE_1:
    LAYERS |= {f"{_row}/{ours}": f"inception{_row}.{name}" for ours, name in _BRANCHES.items()}
LAYERS["classifier"] = "fc"
for _row, _head in (("4a", "aux1"), ("4d", "aux2")):
    LAYERS |= {f"head_{_row}/{ours}": f"{_head}.{name}" for ours, name in _HEAD.items()}
PARTS = {
    "Conv_0/kernel": ".conv.weight",
    "BatchNorm_0/scale": ".bn.weight",
    "BatchNorm_0/bias": ".bn.bias",
    "BatchNorm_0/mean": ".bn.running_mean",
    "BatchNorm_0/var": ".bn.running_var",
    "kernel": ".weight",
    "bias": ".bias",
}
KNOBS = {
    "model.norm": "batch",
    "model.conv5x5_px": 3,
    "model.pool4_px": 2,
    "model.head_pool": "adaptive",
    "model.dropout": 0.2,
    # The published weights need ImageNet's normalisation, then transform_input=True: this is
    # 'symmetric'. Networks that were trained anew, without transform_input, need 'unit'.
    "data.normalization": "symmetric",
}


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a file by torchvision's names, in PyTorch's layout, as `torch_file.read`.

    What precedes the names, as DataParallel's 'module.' or the key of a checkpoint's state_dict, is
    left out. Tensors outside the network, such as an optimizer's, are one entry, 'optimizer'.

    Raises:
        UserError: the file holds several networks; its text continues the file's name.
    """
    safe = pathlib.Path(path).suffix.lower() == ".safetensors"
    arrays = safetensors.numpy.load_file(path) if safe else torch_file.read(path)
    first = LAYERS["conv1"] + PARTS["Conv_0/kernel"]
    prefixes = [n.removesuffix(first) for n in arrays if f".{n}".endswith(f".{first}")]
    if len(prefixes) > 1:
        several = ", ".join(prefix.rstrip(".") or "the file itself" for prefix in prefixes)
        raise UserError(f"holds {len(prefixes)} networks ({several}): save one state_dict alone")
    prefix = prefixes[0] if prefixes else ""
    inside = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    outside = {n.split(".")[0]: a for n, a in arrays.items() if not n.startswith(prefix)}
    return outside | inside


def layers(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """LAYERS, with the classifier's name in this file, as 'fc.1' after a dropout 'fc.0'.

    Raises:
        UserError: the classifier has more than one layer; its text continues the file's name.
    """
    name = LAYERS["classifier"]
    parts = [n for n in arrays if n.startswith(f"{name}.")]
    found = list(dict.fromkeys(n.rsplit(".", 1)[0] for n in parts))
    if len(found) > 1:
        raise UserError(f"has a classifier of several layers ({', '.join(found)}): only one fits")
    return LAYERS | {"classifier": found[0] if found else name}
