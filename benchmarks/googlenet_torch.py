"""Plain GoogLeNet in PyTorch, layer by layer the network of inception/model.py with its defaults.

It has local response normalisation, true 5x5 convolutions, biases, both auxiliary heads, dropout
and ceil-mode pools. torchvision's googlenet is another network (BatchNorm, 3x3 for 5x5, no LRN).
`benchmarks/step.py` times this network and checks that it computes the same as ours.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Not imported from inception/model.py: this file's process does not load JAX, and agreement of two
# independently written networks proves more.
TABLE_1 = {  # 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
MEAN = (123.0, 117.0, 104.0)  # of red, green and blue


class Conv(nn.Module):
    """Convolution and ReLU."""

    def __init__(self, inputs: int, filters: int, kernel_px: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, filters, kernel_px, stride, padding=kernel_px // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x), inplace=True)


def local_response_normalization(x: Tensor) -> Tensor:
    """Equal to torch's own, whose sums by a 3d average pool take twice as long in eager mode."""
    squares = F.pad(x.float().square(), (0, 0, 0, 0, 2, 2))
    n = x.shape[1]
    sums = squares.narrow(1, 0, n)
    for d in range(1, 5):
        sums = sums + squares.narrow(1, d, n)
    root = torch.sqrt(1 + 1e-4 / 5 * sums)
    return (x / (root * root.sqrt())).to(x.dtype)


class Inception(nn.Module):
    """Figure 2 (b)."""

    def __init__(self, inputs: int, row: str):
        super().__init__()
        conv1x1, reduce3x3, conv3x3, reduce5x5, conv5x5, pool_proj = TABLE_1[row]
        self.branch1x1 = Conv(inputs, conv1x1, 1)
        self.reduce3x3 = Conv(inputs, reduce3x3, 1)
        self.branch3x3 = Conv(reduce3x3, conv3x3, 3)
        self.reduce5x5 = Conv(inputs, reduce5x5, 1)
        self.branch5x5 = Conv(reduce5x5, conv5x5, 5)
        self.pool_proj = Conv(inputs, pool_proj, 1)
        self.outputs = conv1x1 + conv3x3 + conv5x5 + pool_proj

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.branch1x1(x),
            self.branch3x3(self.reduce3x3(x)),
            self.branch5x5(self.reduce5x5(x)),
            self.pool_proj(F.max_pool2d(x, 3, stride=1, padding=1)),
        )
        return torch.cat(branches, 1)


class AuxiliaryHead(nn.Module):
    """Logits from the output of 4a or 4d, [b, c, 14, 14] at 224 px."""

    def __init__(self, inputs: int, classes: int, dropout: float, input_px: int):
        super().__init__()
        self.conv = Conv(inputs, 128, 1)
        pooled_px = (input_px // 16 - 5) // 3 + 1
        self.fc = nn.Linear(pooled_px**2 * 128, 1024)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.avg_pool2d(x, 5, stride=3))
        x = x.permute(0, 2, 3, 1).flatten(1)  # our order; needs no copy in channels_last
        return self.classifier(self.dropout(F.relu(self.fc(x), inplace=True)))


class GoogLeNet(nn.Module):
    """uint8 [b, px, px, 3] -> {'main', and in training '4a' and '4d': float32 [b, classes]}."""

    def __init__(
        self,
        input_px: int,
        classes: int = 1000,
        dropout: float = 0.4,
        head_dropout: float = 0.7,
    ):
        super().__init__()
        self.conv1 = Conv(3, 64, 7, 2)
        self.conv2_reduce = Conv(64, 64, 1)
        self.conv2 = Conv(64, 192, 3)
        self.rows, self.heads = nn.ModuleDict(), nn.ModuleDict()
        channels = 192
        for row in TABLE_1:
            self.rows[row] = Inception(channels, row)
            channels = self.rows[row].outputs
            if row in ("4a", "4d"):
                self.heads[row] = AuxiliaryHead(channels, classes, head_dropout, input_px)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = (images - self.mean).permute(0, 3, 1, 2)  # channels_last without a copy
        x = F.max_pool2d(self.conv1(x), 3, stride=2, ceil_mode=True)
        x = self.conv2(self.conv2_reduce(local_response_normalization(x)))
        x = F.max_pool2d(local_response_normalization(x), 3, stride=2, ceil_mode=True)
        logits = {}
        for row, module in self.rows.items():
            x = module(x)
            if self.training and row in self.heads:
                logits[row] = self.heads[row](x).float()
            if row in ("3b", "4e"):
                x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        x = self.dropout(x.mean((2, 3)))
        return {"main": self.classifier(x).float(), **logits}


class Torchvision(nn.Module):
    """torchvision's network and initial weights, with the inputs and outputs of GoogLeNet above."""

    def __init__(self) -> None:
        super().__init__()
        import torchvision  # only this side needs it

        self.network = torchvision.models.googlenet(aux_logits=True, init_weights=False)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.network((images - self.mean).permute(0, 3, 1, 2))
        if not self.training:
            return {"main": logits.float()}
        main, head_4d, head_4a = (head.float() for head in logits)
        return {"main": main, "4a": head_4a, "4d": head_4d}


def loss(logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    """The main cross-entropy plus .3 of each head's."""
    losses = {head: F.cross_entropy(values, labels) for head, values in logits.items()}
    main = losses.pop("main")
    return main + 0.3 * sum(losses.values())


LAYERS = {
    "1x1": "branch1x1",
    "3x3_reduce": "reduce3x3",
    "3x3": "branch3x3",
    "5x5_reduce": "reduce5x5",
    "5x5": "branch5x5",
    "pool_proj": "pool_proj",
}


def name_of(path: str) -> str:
    """'3a/1x1/Conv_0/kernel' -> 'rows.3a.branch1x1.conv.weight'."""
    *modules, leaf = path.split("/")
    words = []
    for module in modules:
        if module in TABLE_1:
            words += ["rows", module]
        elif module.startswith("head_"):
            words += ["heads", module.removeprefix("head_")]
        else:
            words.append("conv" if module == "Conv_0" else LAYERS.get(module, module))
    return ".".join([*words, {"kernel": "weight", "bias": "bias"}[leaf]])


def to_torch(params: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """{'path/with/slashes': our parameter} -> {name: torch's parameter}."""
    axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
    return {
        name_of(path): torch.from_numpy(np.ascontiguousarray(values.transpose(axes[values.ndim])))
        for path, values in params.items()
    }


def to_ours(tensors: dict[str, Tensor], paths: Iterable[str]) -> dict[str, np.ndarray]:
    """{name: torch's parameter or its gradient} -> {path: ours}."""
    axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
    found = {path: tensors[name_of(path)].detach().cpu().numpy() for path in paths}
    return {path: values.transpose(axes[values.ndim]) for path, values in found.items()}
