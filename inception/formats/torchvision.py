"""torchvision.models.googlenet's state_dict: a .pth file of PyTorch, or .safetensors.

NOTE: the network is TF-slim's: BatchNorm after every convolution, no LRN, 3x3 where the paper has
5x5, a 2x2 max pool after 4e, and heads that pool to 4x4. aux1 stands on 4a and aux2 on 4d by
their names: until late 2024 torchvision returned the two outputs swapped (pytorch/vision#8736).
"""

import pathlib

import numpy as np

from inception import UserError
from inception.formats import torch_file
from inception.model import TABLE_1

_BRANCHES = {
    "1x1": "branch1",
    "3x3_reduce": "branch2.0",
    "3x3": "branch2.1",
    "5x5_reduce": "branch3.0",
    "5x5": "branch3.1",
    "pool_proj": "branch4.1",
}
LAYERS = {
    "conv1": "conv1",
    "conv2_reduce": "conv2",
    "conv2": "conv3",
    **{
        f"{row}/{ours}": f"inception{row}.{theirs}"
        for row in TABLE_1
        for ours, theirs in _BRANCHES.items()
    },
    "classifier": "fc",
    **{
        f"head_{row}/{ours}": f"{head}.{theirs}"
        for row, head in (("4a", "aux1"), ("4d", "aux2"))
        for ours, theirs in (("conv", "conv"), ("fc", "fc1"), ("classifier", "fc2"))
    },
}
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
    # transform_input=True on ImageNet's normalisation, as the published weights want; without
    # it, as networks that were trained anew are, the input is 'unit'.
    "data.normalization": "symmetric",
}


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a file by torchvision's names, in PyTorch's layout.

    Raises:
        UserError: no such file, a damaged one, one that holds anything but tensors.
    """
    if pathlib.Path(path).suffix.lower() != ".safetensors":
        return torch_file.read(path)
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except OSError as error:
        raise UserError(f"`input`={path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # SafetensorError, and KeyError for a dtype that numpy lacks
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"`input`={path} is damaged, or no safetensors file ({reason})") from error
