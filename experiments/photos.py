"""Photos from scratch: plain v1 with both heads on a folder of class folders, at 128 px.

    python launch.py train --config=experiments/photos.py --workdir=runs/photos \
        --config.data.path=PHOTOS --config.model.classes=10

Expected: 70% top-1 on ten classes within 90 minutes on two cores. Obtained on a part of imagenette
(of each of its ten classes 600 photos for training and 150 for evaluation, squashed to 224 px, so
not comparable with its leaderboard), after every 2.5 epochs: 42.6%, 55.0%, 61.6%, 67.8%, 72.1%,
74.9%, 76.1%, 77.3%, 77.5%, 77.7%; in 93 minutes beside other work, half of them until 72.1%.

PHOTOS contains a folder for each class, or train and val with such folders. Without train and val,
a fifth of each class is held out.
"""

from ml_collections import ConfigDict, config_dict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.input_px = 128  # a third of 224's cost
    config.model.classes = config_dict.placeholder(int)  # yours to give, as is path
    config.model.dropout = 0.2  # for few epochs, as in modern.py
    config.loss.label_smoothing = 0.1  # for few epochs, as in modern.py

    config.optim.batch_size = 32  # more steps in the same time
    config.optim.epochs = 25.0  # what 90 minutes on two cores allow
    config.optim.schedule = "cosine"  # as in modern.py, with its kind of warm-up
    config.optim.warmup_epochs = 1.0
    config.optim.weight_decay = 5e-4  # few photos
    config.optim.polyak_decay = 0.999  # over about five epochs of 6,000 photos

    config.data.source = "folder"
    config.data.path = config_dict.placeholder(str)
    config.data.eval_split = "val"
    config.data.area_range = (0.25, 1.0)  # few epochs: crops more like those of evaluation
    config.data.interpolations = ("bilinear",)  # as in modern.py
    config.data.colors.brightness = 0.2  # half of modern.py's, for few epochs; its lighting
    config.data.colors.contrast = 0.2
    config.data.colors.saturation = 0.2
    config.data.colors.lighting = 0.0
    config.data.resize_px = 146  # the crop is its central 7/8
    config.run.eval_every_epochs = 2.5  # ten times in all
    config.run.checkpoint_every_epochs = 2.5
    return config
