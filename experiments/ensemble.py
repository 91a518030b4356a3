"""The paper's seven models: six alike and one wider, from the same initial weights.

They see other crops in another order and are otherwise trained alike (paper, section 7). The paper
gives no width; 1.25 costs about half as much again.

    python launch.py sweep --config=experiments/ensemble.py --workdir=runs/ensemble \
        --config.data.path=DATA
    python launch.py eval --crops=1,10,144 --checkpoints=runs/ensemble/0,runs/ensemble/1,\
runs/ensemble/2,runs/ensemble/3,runs/ensemble/4,runs/ensemble/5,runs/ensemble/6

Expected: top-5 error 6.67% at 144 crops, the paper's; 16 days on a GPU of 2,000 images/s, 14 to 28
hours on eight A100 (docs/reproduce.md). Not yet run on ImageNet; `photos_small.py` has it on a
folder of photos.
"""

from ml_collections import ConfigDict

from experiments import paper


def get_config() -> ConfigDict:
    return paper.get_config()


def sweep() -> list[dict[str, int | float]]:
    """One point a model. The seed of the weights stays: the wider one cannot share them."""
    alike: list[dict[str, int | float]] = [{"data.seed": i} for i in range(6)]
    return [*alike, {"data.seed": 6, "model.width": 1.25}]
