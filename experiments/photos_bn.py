"""`photos.py` with BatchNorm in place of LRN, biases and heads: as good in half the epochs?

    python launch.py train --config=experiments/photos_bn.py --workdir=runs/photos_bn \
        --config.data.path=PHOTOS --config.model.classes=10
"""

from ml_collections import ConfigDict

from experiments import photos


def get_config() -> ConfigDict:
    config = photos.get_config()
    config.model.norm = "batch"
    config.model.heads = False  # bn.py's reason
    config.optim.learning_rate = 0.03  # digits.py's: three times plain v1's
    config.optim.epochs = 12.0
    config.optim.polyak_decay = 0.998  # half the epochs, half the average
    return config
