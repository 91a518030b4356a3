"""Ablations: removes each idea that the paper argues for, from three initial weights each.

    python launch.py sweep --config=experiments/ablations.py --sweep=heads \
        --workdir=runs/heads --config.data.path=DATA

The sweeps: module, heads, top, lrn, polyak, sampling, dropout, width. The parent is `paper.py`;
`photos_small.py` runs them on a folder of photos and states the results.

Expected: both heads together are worth about .5%, and a single head as much (the paper does not say
which); average pooling is worth .6% of top-1 (section 5); reductions win at equal cost (section 4
argues so without measuring). Each change takes 150 hours on a GPU of 2,000 images/s, three times
`paper`'s, and so does the parent. Not yet run on ImageNet.
"""

from ml_collections import ConfigDict

from experiments import Point, grid, paper


def get_config() -> ConfigDict:
    return paper.get_config()


def against(*changes: Point) -> list[Point]:
    """The parent and each change, with three seeds each."""
    return [{**change, **seed} for change in ({}, *changes) for seed in grid({"seed": (0, 1, 2)})]


def naive_modules(width: float) -> list[Point]:
    """Figure 2a; the width at which their cost equals the parent's depends on the input size."""
    return against({"model.module": "naive", "model.width": width})


def sweep_module() -> list[Point]:
    """Modules with reductions against naive modules of equal cost."""
    return naive_modules(0.351)  # 1.57 against 1.58 GMACs at 224 px


def sweep_heads() -> list[Point]:
    """Both auxiliary heads, a single one, none; section 5."""
    return against({"model.heads_on": "4a"}, {"model.heads_on": "4d"}, {"model.heads": False})


def sweep_top() -> list[Point]:
    """Average pooling against a fully connected layer before the classifier, section 5."""
    return against({"model.top": "fc"})


def sweep_lrn() -> list[Point]:
    """LRN, which figure 3 draws, against no normalisation."""
    return against({"model.norm": "none"})


def sweep_polyak() -> list[Point]:
    """With and without the Polyak average that section 6 uses at inference."""
    return against({"optim.polyak_decay": 0.0})


def sweep_sampling() -> list[Point]:
    """The smallest share of an image's area that a crop may have: .08 in the paper, section 6."""
    return against({"data.area_range": (0.35, 1.0)}, {"data.area_range": (0.875, 1.0)})


def sweep_dropout() -> list[Point]:
    """The classifier's dropout, which the paper kept after removing the fully connected layer."""
    return against({"model.dropout": 0.0}, {"model.dropout": 0.7})


def sweep_width() -> list[Point]:
    """The factor on all filters; the cost grows with its square."""
    return against({"model.width": 0.5}, {"model.width": 0.75})
