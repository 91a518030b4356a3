"""ImageNet at batch 256: the parent of all recipes for ImageNet.

    python launch.py train --config=experiments/imagenet.py --workdir=runs/imagenet \
        --config.data.path=DATA

DATA is what `launch.py prepare` wrote. The same command runs on one GPU, on eight or on a pod;
if the batch does not fit, add --config.optim.accumulate=4.

Expected: nobody has published a number for exactly this recipe; each child states its own. 90
epochs: 16 hours on a GPU of 2,000 images/s, about one on eight A100 (docs/how-to/imagenet.md). Not
yet run.
"""

from ml_collections import ConfigDict, config_dict

from experiments import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.source = "tfds"
    config.data.name = "imagenet2012"
    config.data.path = config_dict.placeholder(str)  # yours to give
    config.data.eval_split = "validation"
    return config
