"""BVLC's quick_solver, which made the published Caffe weights: 2.4 million steps of 32 images.

    python launch.py train --config=experiments/bvlc_quick.py --workdir=runs/bvlc_quick \
        --config.data.path=DATA

Expected: 68.7 / 88.9 top-1 / top-5, BVLC's own. Not yet run. From its initialisation the trunk of
this network does not always come alive (BVLC/caffe#1598): a warning says so after four epochs.
"""

from ml_collections import ConfigDict

from experiments import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    # All of this is BVLC's quick_solver.prototxt and train_val.prototxt.
    config.model.initializer = "xavier"
    config.optim.batch_size = 32
    config.optim.learning_rate = 0.01
    config.optim.epochs = 2_400_000 * 32 / 1_281_167
    config.optim.momentum_style = "caffe"
    config.optim.bias_lr_mult = 2.0
    config.optim.bias_decay_mult = 0.0
    config.optim.polyak_decay = 0.0
    config.data.sampler = "caffe"
    config.data.interpolations = ("bilinear",)
    config.data.colors = dict.fromkeys(config.data.colors, 0.0)
    config.data.resize = "squash"
    return config
