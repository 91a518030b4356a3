"""One ml_collections config per claimed number; base.py holds every knob once.

This module makes the points of a sweep: every combination, value by value, or drawn at random.
A space is {knob: choices}, with knobs named below config, as in 'optim.learning_rate'. Choices
are a tuple of values or, for a number, `uniform` or `log_uniform`; only `random` and a search
can draw from those two.
"""

import itertools
import math
import random as random_numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Point = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, distributed uniformly; with `log` their logarithms are."""

    low: float
    high: float
    log: bool

    def draw(self, rng: random_numbers.Random) -> float:
        """Draws one number."""
        if self.log:
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)


def uniform(low: float, high: float) -> Range:
    """Numbers from low to high, distributed uniformly; ValueError unless low < high."""
    return _range(low, high, log=False)


def log_uniform(low: float, high: float) -> Range:
    """Numbers with uniformly distributed logarithms; ValueError unless 0 < low < high."""
    return _range(low, high, log=True)


def _range(low: float, high: float, *, log: bool) -> Range:
    if not low < high or (log and low <= 0):
        raise ValueError(f"from {low} to {high}: must grow" + (", from above 0" if log else ""))
    return Range(low, high, log)


def grid(space: Mapping[str, tuple]) -> list[Point]:
    """Every combination of values; the last knob changes fastest."""
    _check_listed(space)
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def zipped(space: Mapping[str, tuple]) -> list[Point]:
    """All first values, then all second values, ...; ValueError if knobs have unequal numbers."""
    _check_listed(space)
    if len({len(values) for values in space.values()}) > 1:
        lengths = {knob: len(values) for knob, values in space.items()}
        raise ValueError(f"zipped: as many values for each knob, not {lengths}")
    return [dict(zip(space, values, strict=True)) for values in zip(*space.values(), strict=True)]


def random(space: Mapping[str, tuple | Range], count: int, *, seed: int = 0) -> list[Point]:
    """`count` points with values drawn independently; a function of the seed."""
    rng = random_numbers.Random(seed)
    return [
        {
            knob: choices.draw(rng) if isinstance(choices, Range) else rng.choice(choices)
            for knob, choices in space.items()
        }
        for _ in range(count)
    ]


def _check_listed(space: Mapping[str, tuple]) -> None:
    for knob, values in space.items():
        if isinstance(values, Range):
            raise ValueError(f"{knob}: a grid needs values, not a range; draw with random()")
