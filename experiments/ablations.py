"""What the paper argues for, taken away one at a time, from three initial weights each.

    python launch.py sweep --config=experiments/ablations.py --sweep=heads \
        --workdir=runs/heads --config.data.path=DATA

The sweeps: module, heads, top, lrn, polyak, sampling, dropout, width. The parent is `paper.py`;
`photos_small.py` has them on a folder of photos, with what came out.

Expected: both heads are worth about .5%, and one alone as much, the paper does not say which;
average pooling .6% of top-1 (section 5); reductions win at equal cost, which section 4 argues and
does not measure. A change takes 150 hours on a GPU of 2,000 images/s, three times `paper`'s, and
the parent as many. Not yet run on ImageNet.
"""

from ml_collections import ConfigDict

from experiments import Point, grid, paper


def get_config() -> ConfigDict:
    return paper.get_config()


def against(*changes: Point) -> list[Point]:
    """The parent and each change of it."""
    return [{**change, **seed} for change in ({}, *changes) for seed in grid({"seed": (0, 1, 2)})]


def naive_modules(width: float) -> list[Point]:
    """Figure 2a; the width at which they cost the parent's multiply-adds depends on px."""
    return against({"model.module": "naive", "model.width": width})


def sweep_module() -> list[Point]:
    """Modules with reductions against naive ones at one cost."""
    return naive_modules(0.351)  # 1.57 against 1.58 GMACs at 224 px


def sweep_heads() -> list[Point]:
    """Both auxiliary heads, one alone, none; section 5."""
    return against({"model.heads_on": "4a"}, {"model.heads_on": "4d"}, {"model.heads": False})


def sweep_top() -> list[Point]:
    """Average pooling against a fully connected layer before the classifier, section 5."""
    return against({"model.top": "fc"})


def sweep_lrn() -> list[Point]:
    """The layer that figure 3 draws."""
    return against({"model.norm": "none"})


def sweep_polyak() -> list[Point]:
    """The average that section 6 uses at inference."""
    return against({"optim.polyak_decay": 0.0})


def sweep_sampling() -> list[Point]:
    """The smallest share of an image that a crop may have, section 6: .08 in the paper."""
    return against({"data.area_range": (0.35, 1.0)}, {"data.area_range": (0.875, 1.0)})


def sweep_dropout() -> list[Point]:
    """The classifier's: the paper kept it after it had done without the fully connected layer."""
    return against({"model.dropout": 0.0}, {"model.dropout": 0.7})


def sweep_width() -> list[Point]:
    """Filters, times; the cost grows with the square."""
    return against({"model.width": 0.5}, {"model.width": 0.75})
