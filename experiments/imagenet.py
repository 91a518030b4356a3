"""ImageNet at batch 256, the parent of the recipes for it: Caffe's optimiser, the paper's crops.

Without BatchNorm the rate grows slower than the batch: `sweep_batches` are the published steps of
that ladder (Intel's Caffe on 4, 8 and 16 nodes).

    python launch.py train --config=experiments/imagenet.py --workdir=runs/imagenet \
        --config.data.path=DATA
    python launch.py sweep --config=experiments/imagenet.py --sweep=batches \
        --workdir=runs/batches --config.data.path=DATA

DATA is what `launch.py prepare` wrote. The same commands run on one GPU, on eight or on a pod;
where the batch does not fit, add --config.optim.accumulate=4.

Expected, top-1 / top-5, with Caffe's crops (Intel's published solvers): 68.74 / 89.06 at batch 256,
68.58 / 88.85 at 512, 68.39 / 88.77 at 1024. Not yet run.
"""

from ml_collections import ConfigDict, config_dict

from experiments import base, zipped


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.source = "tfds"
    config.data.name = "imagenet2012"
    config.data.path = config_dict.placeholder(str)  # yours to give
    config.data.eval_split = "validation"
    return config


def sweep_batches() -> list[dict]:
    """Intel's ladder: the rate is x1.5 and x1.6 for a batch of x2 and x4."""
    return zipped(
        {
            "optim.batch_size": (256, 512, 1024),
            "optim.learning_rate": (0.04, 0.06, 0.065),
            "optim.epochs": (90.0, 73.0, 72.0),
        }
    )
