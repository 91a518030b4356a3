"""v1 with BatchNorm after every convolution, in place of LRN, biases and heads.

    python launch.py train --config=experiments/bn.py --workdir=runs/bn --config.data.path=DATA

Expected: above TF-slim's 69.8 / 89.6 top-1 / top-5, a network with 3x3 for 5x5; 16 hours on a
GPU of 2,000 images/s, about one on eight A100 (docs/how-to/imagenet.md). Not yet run.
"""

from ml_collections import ConfigDict

from experiments import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.model.norm = "batch"
    config.model.heads = False  # heads counter vanishing gradients; BatchNorm prevents those
    config.model.dropout = 0.2  # BatchNorm regularises; as TF-slim's keep rate of .8
    config.optim.learning_rate = 0.18  # lim0606's .045 at batch 64, scaled linearly (Goyal, 2017)
    config.optim.schedule = "cosine"  # modern's
    config.optim.warmup_epochs = 5.0  # Goyal et al. (2017), for large rates
    config.optim.weight_decay = 4e-5  # TF-slim's
    config.data.normalization = "symmetric"  # TF-slim's
    return config
