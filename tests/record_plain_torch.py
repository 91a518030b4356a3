"""Records in tests/recorded what PyTorch computes with plain GoogLeNet, for a test without it.

    python -m tests.record_plain_torch        # needs torch; the test does not

plain.json: multiply-adds an image, and of one step without dropout the loss, a few logits of each
head and the lengths of some gradients, of benchmarks/googlenet_torch.py with the weights and pixels
of benchmarks/step_sides.py.
"""

import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
RECORDED = ROOT / "tests" / "recorded" / "plain.json"
WORK = ("train", "float32", 2, 224)  # what, dtype, images, px
SHOWN = 8  # logits a head and image
KERNELS = ("conv1", "3a/5x5", "5b/pool_proj", "head_4d/conv")


def shown(computed: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """What is recorded of Ours.computed or Torch.computed."""
    found = {name: computed[name].ravel().tolist() for name in ("macs", "loss")}
    for name in ("logits/main", "logits/4a", "logits/4d", "logits/eval"):
        found[name] = computed[name][:, :SHOWN].ravel().tolist()
    for kernel in KERNELS:
        velocity = computed[f"velocity/{kernel}/Conv_0/kernel"]
        found[kernel] = [float(np.linalg.norm(velocity))]
    return found


def main() -> None:
    import step_sides

    weights = step_sides.Ours(*WORK, dropout=False).weights
    module = step_sides.Torch(*WORK, side="eager", weights=weights, dropout=False)
    RECORDED.write_text(json.dumps(shown(module.computed()), indent=0) + "\n")


if __name__ == "__main__":
    main()
