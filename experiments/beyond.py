"""An attempt to surpass the best published plain v1: `modern` with stronger augmentation.

    python launch.py train --config=experiments/beyond.py --workdir=runs/beyond \
        --config.data.path=DATA
    python launch.py eval --workdir=runs/beyond --config.input_px=256 --config.data.resize_px=288

The second command evaluates at 256 px: in training crops, objects look larger than in evaluation at
the same size, and a larger input makes up for that (Touvron et al., 2019).

Expected: above `modern`'s 72.9% top-1; nobody has published a number. 107 hours on a GPU of 2,000
images/s; RandAugment keeps five cores busy at this rate (docs/reasons/input.md). Not yet run. The
sweep of its parts has 8 points of 27 hours:

    python launch.py sweep --config=experiments/beyond.py --workdir=runs/parts \
        --config.data.path=DATA
"""

from ml_collections import ConfigDict

from experiments import grid, modern


def get_config() -> ConfigDict:
    config = modern.get_config()  # He initialisation, cosine, label smoothing
    config.optim.epochs = 600.0  # augmented images take longer to learn (Wightman et al., 2021)
    config.optim.polyak_decay = 0.9999  # base's; modern turns it off
    config.data.colors = dict.fromkeys(config.data.colors, 0.0)  # RandAugment changes colors itself
    # Half the magnitude that suits ResNet-50, which is four times as large.
    config.data.randaugment.layers = 2
    config.data.randaugment.magnitude = 4.5
    config.data.mixup = 0.1  # as Wightman et al. (2021) for ResNet-50
    return config


def sweep() -> list[dict]:
    """Which of its parts help, in a quarter of the epochs."""
    space = {"data.randaugment.layers": (0, 2), "data.mixup": (0.0, 0.1), "data.cutmix": (0.0, 1.0)}
    return grid({"optim.epochs": (150.0,), **space})
