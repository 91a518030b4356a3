"""`photos.py` at 65 px with half the filters: the paper's claims at a size for two cores.

    python launch.py sweep --config=experiments/photos_small.py --workdir=runs/ablations \
        --workers=2 --config.data.path=PHOTOS --config.model.classes=10
    python launch.py sweep --config=experiments/photos_small.py --sweep=ensemble \
        --workdir=runs/seven --workers=2 --config.data.path=PHOTOS --config.model.classes=10

The first runs the ablations heads, module, top, lrn, polyak and sampling of `ablations.py`;
--sweep=NAME runs a single one.

Expected: the paper's differences of half a point disappear in noise. Obtained on the photos of
`photos.py`, top-1: 39.5 +- 1.4% for the parent, 35.8% (naive modules) to 42.4% (crops of at least
87.5%) for the ablations, 45.2% for the wider model; all in README.md and results.csv. Two points
take 4 minutes on two cores, 8 with naive modules: the 30 points take an hour and a quarter.
"""

from ml_collections import ConfigDict

from experiments import Point, ensemble, photos
from experiments.ablations import (
    against,
    naive_modules,
    sweep_heads,
    sweep_lrn,
    sweep_polyak,
    sweep_top,
)


def get_config() -> ConfigDict:
    config = photos.get_config()
    config.input_px = 65  # the smallest that the heads allow
    config.model.width = 0.5  # a third of the time
    config.optim.epochs = 4.0  # for 24 or more runs in two hours
    config.optim.warmup_epochs = 0.5  # a shorter run's
    config.optim.polyak_decay = 0.99  # over the last half epoch
    config.data.resize_px = 74  # in proportion to photos.py's 146
    config.run.eval_every_epochs = 1.0  # every 2.5 as in photos.py would be once
    config.run.checkpoint_every_epochs = 2.0
    return config


def sweep() -> list[Point]:
    """Six ablations, with the parent's points only once."""
    six = (sweep_heads, sweep_module, sweep_top, sweep_lrn, sweep_polyak, sweep_sampling)
    return list({str(point): point for one in six for point in one()}.values())


def sweep_module() -> list[Point]:
    """Modules with reductions against naive ones of equal cost, at 65 px and half the filters."""
    return naive_modules(0.165)  # 47.6 against 47.7 MMACs


def sweep_sampling() -> list[Point]:
    """As in ablations.py, but with .08 and .875; the parent, photos.py, has .25."""
    return against({"data.area_range": (0.08, 1.0)}, {"data.area_range": (0.875, 1.0)})


def sweep_ensemble() -> list[Point]:
    """As in ensemble.py, with half the filters; the seventh has a quarter more."""
    *alike, wider = ensemble.sweep()
    return [*alike, {**wider, "model.width": 0.625}]
