"""The ablations of `ablations.py` on the digits, plain v1: some minutes a point on 2 cores.

    python launch.py sweep --config=experiments/ablations_digits.py --sweep=heads \
        --workdir=runs/heads --workers=2

On inputs of -1 to 1, as here, LRN is nearly the identity: sweep_lrn shows that, and no more.
Not yet run.
"""

from experiments import digits_plain
from experiments.ablations import (
    modules_at_one_cost,
    sweep_dropout,
    sweep_heads,
    sweep_lrn,
    sweep_polyak,
    sweep_sampling,
    sweep_top,
    sweep_width,
)

get_config = digits_plain.get_config


def sweep_module() -> list[dict]:
    """Modules with reductions against naive ones at one cost, of 65 px here."""
    return modules_at_one_cost(0.325)


__all__ = [
    "get_config",
    "sweep_dropout",
    "sweep_heads",
    "sweep_lrn",
    "sweep_module",
    "sweep_polyak",
    "sweep_sampling",
    "sweep_top",
    "sweep_width",
]
