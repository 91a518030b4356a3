"""Records in tests/recorded what PyTorch writes and computes, for tests that run without it.

    python -m tests.record_torchvision        # needs torch and torchvision; no other test does

googlenet.json: the names and shapes of torchvision's googlenet, and a few logits of its three heads
for weights and images that are functions of names and shapes. zip.pth, stream.pth: `tensors()` as
torch.save writes them in its present and its older format.
"""

import json
import pathlib
import zlib
from typing import Any

import numpy as np

RECORDED = pathlib.Path(__file__).with_name("recorded")
PX = 80  # a grid of 5x5 for the heads, whose cells overlap, and of 5x5 for the 2x2 pool
SHOWN = 8  # logits a head and image


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight of torchvision's googlenet; RandomState's numbers are the same in every NumPy."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.asarray(7, np.int64)
    if name.endswith(("bn.weight", "running_var")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        return rng.normal(0, 0.1, shape).astype(np.float32)
    return rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)


def draw_images(px: int) -> np.ndarray:
    """uint8 [2, px, px, 3]."""
    return np.random.RandomState(0).randint(0, 256, (2, px, px, 3)).astype(np.uint8)


def torch_logits(module: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The three heads of torchvision's module, as in training, on ImageNet-normalised images.

    BatchNorm and dropout are as in evaluation. The heads are told apart by the modules' names: in
    the output older versions have them swapped.
    """
    import torch

    logits = {}
    for ours, head in (("4a", module.aux1), ("4d", module.aux2), ("main", module.fc)):
        head.register_forward_hook(lambda _, __, out, name=ours: logits.update({name: out.numpy()}))
    module.train()
    for layer in module.modules():
        if isinstance(layer, (torch.nn.BatchNorm2d, torch.nn.Dropout)):
            layer.eval()
    x = (images / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    with torch.no_grad():
        module(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32)))
    return logits


def torch_googlenet(**choices: Any) -> Any:
    """torchvision's module with the drawn weights."""
    import torch
    from torchvision.models import googlenet

    module = googlenet(aux_logits=True, init_weights=False, **choices)
    module.load_state_dict(
        {k: torch.from_numpy(draw(k, tuple(v.shape))) for k, v in module.state_dict().items()}
    )
    return module


def tensors() -> dict[str, Any]:
    """A state_dict of every kind of tensor that torch.save may find in one."""
    import torch

    base = torch.arange(24.0).reshape(2, 3, 4)
    module = torch.nn.BatchNorm2d(3)
    state = module.state_dict()  # an OrderedDict with _metadata
    return type(state)(
        {
            **state,
            "plain": base,
            "part of plain": base[1, 1:],
            "transposed": base.transpose(0, 2),
            "empty": torch.zeros(0, 3),
            "parameter": torch.nn.Parameter(torch.tensor([1.5, -2.5])),
            "half": torch.tensor([0.5, 65504.0]).half(),
            "bfloat16": torch.tensor([1.0, 3.140625]).bfloat16(),
            "double": torch.tensor([1 / 3], dtype=torch.float64),
            "bool": torch.tensor([True, False]),
        }
    )


def main() -> None:
    import torch

    RECORDED.mkdir(exist_ok=True)
    module = torch_googlenet(transform_input=True)
    shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    logits = torch_logits(module, draw_images(PX))
    shown = {head: values[:, :SHOWN].tolist() for head, values in logits.items()}
    (RECORDED / "googlenet.json").write_text(
        json.dumps({"shapes": shapes, "logits": shown}, indent=0) + "\n"
    )
    torch.save(tensors(), RECORDED / "zip.pth")
    torch.save(tensors(), RECORDED / "stream.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
