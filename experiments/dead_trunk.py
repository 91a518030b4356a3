"""When the trunk stays dead: initialisation x learning rate x LRN, plain v1 on digits.

With Caffe's initialisation many people find the trunk of this network dead: the auxiliary heads
learn, and the main classifier stays at chance (BVLC/caffe#1598, NVIDIA/DIGITS#82).

    python launch.py sweep --config=experiments/dead_trunk.py --workdir=runs/dead_trunk --workers=2

32 points take 50 minutes on 2 busy cores. Expected: with xavier the trunk stays at chance (10%),
with he it learns. Obtained (docs/reasons/dead_trunk.md): with xavier, chance at every rate except
.003 (15%); with he, 74 to 77% at .01, less at .003 and .03, chance at .1; LRN makes no difference.
"""

from ml_collections import ConfigDict

from experiments import digits_plain, grid, log_uniform


def get_config() -> ConfigDict:
    config = digits_plain.get_config()
    config.model.width = 0.5  # a third of the time
    config.optim.epochs = 3.0  # enough for a living trunk to leave chance
    config.run.checkpoint_every_epochs = 3.0
    return config


def space() -> dict:
    """For --search: all rates between the lowest and the highest of sweep()."""
    return {
        "model.initializer": ("he", "xavier"),
        "model.norm": ("lrn", "none"),
        "optim.learning_rate": log_uniform(0.003, 0.1),
    }


def sweep() -> list[dict]:
    """Two seeds each, because near the edge the result is luck."""
    return grid(space() | {"optim.learning_rate": (0.003, 0.01, 0.03, 0.1), "seed": (0, 1)})
