"""What the paper argues for, taken away one at a time, from three initial weights each.

    python launch.py sweep --config=experiments/ablations.py --sweep=heads \
        --workdir=runs/heads --config.data.path=DATA

The sweeps: module, heads, top, lrn, polyak, sampling, dropout, width. The parent is `paper.py`;
`ablations_digits.py` has them on the digits.

Expected: both heads are worth about .5%, and one alone as much, the paper does not say which;
average pooling .6% of top-1 (section 5); reductions win at equal cost, which section 4 argues and
does not measure. Not yet run on ImageNet.
"""

from ml_collections import ConfigDict

from experiments import grid, paper

SEEDS = {"seed": (0, 1, 2)}


def get_config() -> ConfigDict:
    return paper.get_config()


def modules_at_one_cost(naive_width: float) -> list[dict]:
    """Figure 2b against 2a; the width at which both make as many multiply-adds depends on px."""
    naive = {"model.module": "naive", "model.width": naive_width}
    return [{**m, **seed} for m in ({"model.module": "reduced"}, naive) for seed in grid(SEEDS)]


def sweep_module() -> list[dict]:
    """Modules with reductions against naive ones at one cost."""
    return modules_at_one_cost(0.351)


def sweep_heads() -> list[dict]:
    """Both auxiliary heads, one alone, none; section 5."""
    return [
        *grid({"model.heads_on": ("both", "4a", "4d"), **SEEDS}),
        *grid({"model.heads": (False,), **SEEDS}),
    ]


def sweep_top() -> list[dict]:
    """Average pooling against a fully connected layer before the classifier, section 5."""
    return grid({"model.top": ("average", "fc"), **SEEDS})


def sweep_lrn() -> list[dict]:
    """The layer that figure 3 draws."""
    return grid({"model.norm": ("lrn", "none"), **SEEDS})


def sweep_polyak() -> list[dict]:
    """The average that section 6 uses at inference, as the parent has it or not at all."""
    return [*grid(SEEDS), *grid({"optim.polyak_decay": (0.0,), **SEEDS})]


def sweep_sampling() -> list[dict]:
    """The smallest share of an image that a crop may have, section 6: .08 in the paper."""
    return grid({"data.area_range": ((0.08, 1.0), (0.35, 1.0), (0.875, 1.0)), **SEEDS})


def sweep_dropout() -> list[dict]:
    """The classifier's: the paper kept it after it had done without the fully connected layer."""
    return grid({"model.dropout": (0.0, 0.4, 0.7), **SEEDS})


def sweep_width() -> list[dict]:
    """Filters, times; the cost grows with the square."""
    return grid({"model.width": (0.5, 0.75, 1.0), **SEEDS})
