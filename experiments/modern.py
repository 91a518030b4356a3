"""Plain v1 by the best published recipe for it (MindCV): no BatchNorm, LRN, biases or heads.

    python launch.py train --config=experiments/modern.py --workdir=runs/modern \
        --config.data.path=DATA

Expected: 72.7 to 72.9 / 90.9 top-1 / top-5, MindCV's own. Not yet run.
"""

from ml_collections import ConfigDict

from experiments import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    # MindCV's googlenet_ascend.yaml, as are its parents' rate and warm-up; it names no colours.
    config.model.norm = "none"
    config.model.biases = False
    config.model.heads = False
    config.model.dropout = 0.2
    config.loss.label_smoothing = 0.1
    config.optim.epochs = 300.0
    config.optim.schedule = "cosine"
    config.optim.weight_decay = 4e-5
    return config
