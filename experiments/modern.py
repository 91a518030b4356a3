"""Plain v1 with its best published recipe (MindCV): no BatchNorm, LRN, biases or heads.

    python launch.py train --config=experiments/modern.py --workdir=runs/modern \
        --config.data.path=DATA

Expected: 72.7 to 72.9 / 90.9 top-1 / top-5, MindCV's own; 53 hours on a GPU of 2,000 images/s, 2 to
4 on eight A100 (docs/how-to/imagenet.md). Not yet run.
"""

from ml_collections import ConfigDict

from experiments import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    # From MindCV's googlenet_ascend.yaml, like base's rate; colors: its trainer's defaults.
    config.model.norm = "none"
    config.model.biases = False
    config.model.heads = False
    config.model.dropout = 0.2
    config.loss.label_smoothing = 0.1
    config.optim.epochs = 300.0
    config.optim.schedule = "cosine"  # ends at 0; MindCV's ends at 1e-4 after 200 epochs
    config.optim.warmup_epochs = 2.0
    config.optim.weight_decay = 4e-5
    config.optim.polyak_decay = 0.0
    config.data.interpolations = ("bilinear",)
    config.data.colors.brightness = 0.4
    config.data.colors.contrast = 0.4
    config.data.colors.saturation = 0.4
    config.data.colors.lighting = 0.0
    return config
