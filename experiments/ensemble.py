"""The paper's seven models: six equal ones from the same initial weights, and a wider one.

They are trained alike except for crops and order of images (paper, section 7). The paper gives no
width; a width of 1.25 raises the cost by about half.

    python launch.py sweep --config=experiments/ensemble.py --workdir=runs/ensemble \
        --config.data.path=DATA
    python launch.py eval --crops=1,10,144 --checkpoints=runs/ensemble/0,runs/ensemble/1,\
runs/ensemble/2,runs/ensemble/3,runs/ensemble/4,runs/ensemble/5,runs/ensemble/6

Expected: top-5 error 6.67% at 144 crops, the paper's; 16 days on a GPU of 2,000 images/s, 14 to 28
hours on eight A100 (docs/how-to/imagenet.md). Not yet run on ImageNet; `photos_small.py` runs it on
a folder of photos.
"""

from ml_collections import ConfigDict

from experiments import paper


def get_config() -> ConfigDict:
    return paper.get_config()


def sweep() -> list[dict[str, int | float]]:
    """One point per model. The weights' seed stays; the wider model cannot share the weights."""
    alike: list[dict[str, int | float]] = [{"data.seed": i} for i in range(6)]
    return [*alike, {"data.seed": 6, "model.width": 1.25}]
