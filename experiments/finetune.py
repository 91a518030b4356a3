"""Fine-tuning: a trained trunk learns the classes of any folder of class folders.

    python launch.py train --config=experiments/finetune.py --workdir=runs/finetuned \
        --config.init_from=DIR --config.data.path=PHOTOS --config.model.classes=10

DIR is a run's folder, or what `launch.py convert` wrote. Weights fit only their own network and
normalisation: if DIR's differ from this recipe's, the error names the flags to add.

Expected: far better than the same epochs from scratch. Obtained with BVLC's weights on imagenette
as in `photos.py`, resize_px=224: 98.07%, 97.87%, 98.07% top-1 after epochs 1 to 3, in 24 minutes on
2 cores beside other work. BVLC's weights have seen these photos: they are from ImageNet's training
set. The same photos and epochs from scratch, in 45 minutes: 16.00%, 25.07%, 30.47%:

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
    config.model.heads = False  # heads help an untrained trunk
    config.model.frozen_through = "3b"  # edges and textures fit any photos; saves 1/3 of the time

    config.optim.batch_size = 32  # more steps from few photos
    config.optim.epochs = 3.0  # docs/how-to/finetune.md has what more and fewer steps gave
    config.optim.min_epoch_steps = 90  # for few photos: the table in docs/how-to/finetune.md
    config.optim.trunk_lr_mult = 0.1  # trained layers move slowly; the classifier has base's rate
    config.optim.schedule = "cosine"  # ends at 0
    config.optim.polyak_decay = 0.0  # the schedule ends at 0, and the run is short

    config.data.normalization = "mean"  # BVLC's weights
    config.data.source = "folder"
    config.data.path = config_dict.placeholder(str)
    config.data.eval_split = "val"
    config.data.area_range = (0.3, 1.0)  # few epochs: crops like those of evaluation
    config.data.colors.brightness = 0.2
    config.data.colors.contrast = 0.2
    config.data.colors.saturation = 0.2
    config.data.colors.lighting = 0.0
    return config
