"""Fine-tuning: a trained trunk learns the classes of any folder of class folders.

    python launch.py train --config=experiments/finetune.py --workdir=runs/finetuned \
        --config.init_from=DIR --config.data.path=PHOTOS --config.model.classes=10

DIR is a run's folder, or what `launch.py convert` wrote. Weights belong to their network and their
normalisation: where DIR's differ from this recipe's, the error names the flags to add.

Expected: far above what the same epochs give from scratch. Obtained with BVLC's weights on
imagenette as in `photos.py`, resize_px=224: 98.07%, 97.87%, 98.07% top-1 after epochs 1 to 3, 24
minutes on 2 cores beside other work. They are training photos of ImageNet, which BVLC's weights
have seen. The same photos and epochs from scratch, 45 minutes: 16.00%, 25.07%, 30.47%:

    python launch.py train --config=experiments/finetune.py --workdir=runs/scratch \
        --config.init_from= --config.model.frozen_through= --config.optim.trunk_lr_mult=1 \
        --config.data.normalization=unit --config.data.resize_px=224 --config.data.path=PHOTOS \
        --config.model.classes=10
"""

from ml_collections import ConfigDict, config_dict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.init_from = config_dict.placeholder(str)  # yours to give, as are path and classes
    config.model.classes = config_dict.placeholder(int)
    config.model.heads = False  # they are for trunks that have yet to learn
    config.model.frozen_through = "3b"  # edges and textures serve any photos; a third of the time

    config.optim.batch_size = 32  # more steps of few photos
    config.optim.epochs = 3.0  # of 6,000 photos the first is nearly enough
    config.optim.min_epoch_steps = 60  # of a few hundred, three passes are too few steps
    config.optim.trunk_lr_mult = 0.1  # what is learnt moves slowly; base's rate is the classifier's
    config.optim.schedule = "cosine"  # ends at 0
    config.optim.polyak_decay = 0.0  # the schedule ends at 0, and the run is short

    config.data.normalization = "mean"  # BVLC's weights
    config.data.source = "folder"
    config.data.path = config_dict.placeholder(str)
    config.data.eval_split = "val"
    config.data.area_range = (0.3, 1.0)  # few epochs: crops near to what evaluation sees
    config.data.colors.brightness = 0.2
    config.data.colors.contrast = 0.2
    config.data.colors.saturation = 0.2
    config.data.colors.lighting = 0.0
    return config
