"""Where the dead trunk lives: initialisation x learning rate x LRN, plain v1 on digits.

Caffe's initialisation leaves the trunk of this network dead for many people: its heads learn, and
the main classifier stays at chance (BVLC/caffe#1598, NVIDIA/DIGITS#82).

    python launch.py sweep --config=experiments/dead_trunk.py --workdir=runs/dead_trunk --workers=2

32 points take 50 minutes on 2 busy cores. Expected: xavier's trunk stays at chance (10%), he's
learns. Obtained (docs/dead_trunk.md): with xavier chance at every rate but .003 (15%); with he 74
to 77% at .01, less beside it, chance at .1; LRN makes no difference.
"""

from ml_collections import ConfigDict

from experiments import digits_plain, grid, log_uniform


def get_config() -> ConfigDict:
    config = digits_plain.get_config()
    config.model.width = 0.5  # a third of the time
    config.optim.epochs = 3.0  # what lives has left chance by then
    config.run.checkpoint_every_epochs = 3.0
    return config


def space() -> dict:
    """For --search: every rate between those of sweep()."""
    return {
        "model.initializer": ("he", "xavier"),
        "model.norm": ("lrn", "none"),
        "optim.learning_rate": log_uniform(0.003, 0.1),
    }


def sweep() -> list[dict]:
    """Two seeds each, for at the edge it is luck."""
    return grid(space() | {"optim.learning_rate": (0.003, 0.01, 0.03, 0.1), "seed": (0, 1)})
