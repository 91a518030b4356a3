"""BVLC's quick_solver, the recipe of the published Caffe weights: 2.4 million steps of 32 images.

    python launch.py train --config=experiments/bvlc_quick.py --workdir=runs/bvlc_quick \
        --config.data.path=DATA
    python launch.py sweep --config=experiments/bvlc_quick.py --sweep=batches \
        --workdir=runs/batches --config.data.path=DATA

Without BatchNorm the learning rate must grow more slowly than the batch: `sweep_batches` holds the
published values for larger batches, from Intel's Caffe on 4, 8 and 16 nodes.

Expected, top-1 / top-5: 68.7 / 88.9, BVLC's own; Intel's 68.74 / 89.06 at batch 256, 68.58 / 88.85
at 512, 68.39 / 88.77 at 1024; 11 hours on a GPU of 2,000 images/s, which a batch of 32 may not
fill. Not yet run. With this initialisation the trunk sometimes stays dead (BVLC/caffe#1598); then a
warning appears after four epochs.
"""

from ml_collections import ConfigDict

from experiments import imagenet, zipped


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    # From BVLC's quick_solver.prototxt and train_val.prototxt, like base's rate, power and decay.
    config.model.initializer = "xavier"
    config.optim.batch_size = 32
    config.optim.epochs = 2_400_000 * 32 / 1_281_167
    config.optim.momentum_style = "caffe"
    config.optim.bias_lr_mult = 2.0
    config.optim.bias_decay_mult = 0.0
    config.optim.polyak_decay = 0.0
    config.data.sampler = "caffe"
    config.data.interpolations = ("bilinear",)
    config.data.colors = dict.fromkeys(config.data.colors, 0.0)
    config.data.normalization = "mean"
    config.data.resize = "squash"
    return config


def sweep_batches() -> list[dict]:
    """Intel's values: for batches x8, x16 and x32 the learning rate is x4, x6 and x6.5."""
    return zipped(
        {
            "optim.batch_size": (256, 512, 1024),
            "optim.learning_rate": (0.04, 0.06, 0.065),
            "optim.epochs": (90.0, 73.0, 72.0),
        }
    )
