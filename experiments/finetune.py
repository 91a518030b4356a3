"""Fine-tuning: a trained trunk learns the classes of any folder of class folders.

    python launch.py train --config=experiments/finetune.py --workdir=runs/finetuned \
        --config.init_from=DIR --config.data.path=PHOTOS --config.model.classes=10

DIR is a run's folder, or what `launch.py convert` wrote. From scratch, for comparison:
"""

from ml_collections import ConfigDict, config_dict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.init_from = config_dict.placeholder(str)
    config.data.source = "folder"
    config.data.path = config_dict.placeholder(str)
    config.data.eval_split = "val"
    config.model.classes = config_dict.placeholder(int)
    config.model.heads = False  # a trained trunk does not need them

    config.optim.batch_size = 32
    config.optim.epochs = 3.0
    config.optim.learning_rate = 0.001
    config.optim.schedule = "cosine"
    config.optim.polyak_decay = 0.0

    config.data.area_range = (0.3, 1.0)
    config.data.colors.brightness = 0.2
    config.data.colors.contrast = 0.2
    config.data.colors.saturation = 0.2
    config.data.colors.lighting = 0.0
    return config
