"""Photos from scratch: plain v1 with both heads on a folder of class folders, at 128 px.

    python launch.py train --config=experiments/photos.py --workdir=runs/photos \
        --config.data.path=PHOTOS --config.model.classes=10

Expected: 70% top-1 on ten classes within 90 minutes on two cores. Obtained on a part of imagenette
(600 photos of each of its ten classes to train on and 150 others, squashed to 224 px, so not
comparable with its leaderboard), after every 2.5 epochs: 42.6%, 55.0%, 61.6%, 67.8%, 72.1%, 74.9%,
76.1%, 77.3%, 77.5%, 77.7%; in 93 minutes beside other work, half of them for the 72.1%.

PHOTOS has a folder for each class, or train and val with those in them; without, a fifth of each
class is held out.
"""

from ml_collections import ConfigDict, config_dict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.input_px = 128  # a third of 224's cost
    config.model.classes = config_dict.placeholder(int)  # yours to give, as is path
    config.model.dropout = 0.2  # few epochs: modern's
    config.loss.label_smoothing = 0.1  # likewise

    config.optim.batch_size = 32  # more steps in the same time
    config.optim.epochs = 25.0  # what 90 minutes on two cores allow
    config.optim.schedule = "cosine"  # modern's, and a warm-up as there
    config.optim.warmup_epochs = 1.0
    config.optim.weight_decay = 5e-4  # few photos
    config.optim.polyak_decay = 0.999  # over some five epochs of 6,000 photos

    config.data.source = "folder"
    config.data.path = config_dict.placeholder(str)
    config.data.eval_split = "val"
    config.data.area_range = (0.25, 1.0)  # few epochs: crops nearer to what evaluation sees
    config.data.interpolations = ("bilinear",)  # modern's
    config.data.colors.brightness = 0.2  # half of modern's, for few epochs; and its lighting
    config.data.colors.contrast = 0.2
    config.data.colors.saturation = 0.2
    config.data.colors.lighting = 0.0
    config.data.resize_px = 146  # the crop is its central 7/8
    config.run.eval_every_epochs = 2.5  # ten times in all
    config.run.checkpoint_every_epochs = 2.5
    return config
