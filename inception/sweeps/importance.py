"""What differs between the points of a study, and how much each difference mattered."""

import math
from collections.abc import Sequence
from typing import Any

import optuna

from inception.reporting.markup import number, text

FEW_VALUES = 8  # no more of them, each in two points: a choice, even of numbers
FEWEST_FINISHED = 4  # points for which importances mean anything
DEPTH = 6  # of fANOVA's trees: 2 s for 400 points of 5 knobs, minutes with Optuna's 64
ABSENT = -0.12  # where a point without the knob lies on its axis


def key(value: Any) -> float | str:
    """Equal for equal values of a knob, whatever their types."""
    known = number(value)
    return str(value) if known is None else known


def _tick(label: str) -> str:
    """Short, and with no formula that matplotlib would set."""
    return (label if len(label) <= 20 else f"...{label[-18:]}").replace("$", r"\$")


class Knob:
    """A knob that differs between points: its values, and where they lie on an axis, 0-1.

    Args:
        values: one a point; None where the point has no such knob.
    """

    def __init__(self, name: str, values: Sequence[Any]):
        self.name = name
        self.label = name
        self.values = values
        present = [value for value in values if value is not None]
        numeric = all(number(value) is not None for value in present)
        by_key = {key(value): value for value in present}
        self.choices = [by_key[k] for k in sorted(by_key, key=lambda k: (isinstance(k, str), k))]
        self.few = len(self.choices) <= min(FEW_VALUES, len(present) / 2)
        self.discrete = self.few or not numeric
        if not self.discrete:
            low, middle, high = (self.choices[i] for i in (0, len(self.choices) // 2, -1))
            self._log = low > 0 and high >= 10 * low and middle < high / 4
            self._low, self._high = map(self._scaled, (low, high))

    def _scaled(self, value: float) -> float:
        return math.log(value) if self._log else value

    def position(self, value: Any) -> float:
        """Choices are evenly spaced; other numbers lie on a linear or a logarithmic scale."""
        if value is None:
            return ABSENT
        if self.discrete:
            return list(map(key, self.choices)).index(key(value)) / max(1, len(self.choices) - 1)
        return (self._scaled(value) - self._low) / max(self._high - self._low, 1e-300)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """(position, label) of `most` choices, or of five numbers; and of having no knob."""
        ticks = [(ABSENT, "absent")] if None in self.values else []
        if self.discrete:
            shown = self.choices[:: math.ceil(len(self.choices) / most)]
            return ticks + [(self.position(value), _tick(text(value))) for value in shown]
        for i in range(5):
            scaled = self._low + (self._high - self._low) * i / 4
            ticks.append((i / 4, f"{math.exp(scaled) if self._log else scaled:.2g}"))
        return ticks


def differing(rows: Sequence[dict[str, Any]]) -> list[Knob]:
    """Knobs that differ between points; labels leave the section out where that is clear."""
    names = dict.fromkeys(name for row in rows for name in row["knobs"])
    columns = {name: [row["knobs"].get(name) for row in rows] for name in names}
    knobs = [Knob(name, values) for name, values in columns.items() if len({*map(key, values)}) > 1]
    short = [knob.name.split(".")[-1] for knob in knobs]
    for knob, name in zip(knobs, short, strict=True):
        knob.label = name if short.count(name) == 1 else knob.name
    return knobs


def importances(rows: Sequence[dict[str, Any]], knobs: Sequence[Knob]) -> dict[str, float] | str:
    """Shares of the variance of the best top-1, by fANOVA over the finished points.

    Returns:
        {name: share}, the greatest first. They sum to 1: what knobs do only together is left out,
        and so is a knob that some finished point lacks or that is no number and has many values:
        fANOVA's time doubles with each. Or, where nothing can be said, why.
    """
    scores = [number(row["best_top1"]) for row in rows]
    done = [i for i, row in enumerate(rows) if row["state"] == "finished" and scores[i] is not None]
    if len(done) < FEWEST_FINISHED:
        return f"{len(done)} finished so far; importances need {FEWEST_FINISHED}."
    distributions: dict[str, Any] = {}
    params: list[dict[str, Any]] = [{} for _ in done]
    for knob in knobs:
        values = [knob.values[i] for i in done]
        if None in values or len({*map(key, values)}) < 2 or (knob.discrete and not knob.few):
            continue
        # fANOVA weighs values by the width of their range, and knows no logarithms.
        coded = [str(key(v)) if knob.discrete else knob.position(v) for v in values]
        distributions[knob.name] = (
            optuna.distributions.CategoricalDistribution(sorted({*map(str, coded)}))
            if knob.discrete
            else optuna.distributions.FloatDistribution(0, 1)
        )
        for param, value in zip(params, coded, strict=True):
            param[knob.name] = value
    if not distributions:
        return "No number and no choice of a few differs between the finished points."
    if len({scores[i] for i in done}) == 1:
        return "All finished points have the same top-1."
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line for every study otherwise
    try:
        study = optuna.create_study(direction="maximize")
        for i, param in zip(done, params, strict=True):
            study.add_trial(
                optuna.create_trial(params=param, distributions=distributions, value=scores[i])
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(max_depth=DEPTH, seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except RuntimeError as error:  # no tree found anything to split
        return f"Optuna finds none: {error}"
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(share) for name, share in shares.items()}


def best_of(rows: Sequence[dict[str, Any]]) -> int | None:
    """Index of the finished point with the highest top-1; while there is none, of any point."""
    scored = [i for i, row in enumerate(rows) if number(row["best_top1"]) is not None]
    finished = [i for i in scored if rows[i]["state"] == "finished"]
    return max(finished or scored, key=lambda i: rows[i]["best_top1"], default=None)


def by_error(values: Sequence[float]) -> tuple[list[float], list[tuple[float, str]]]:
    """Top-1 in percent -> positions, 0-1, by the error's logarithm, and five (position, label).

    Where a dead run has 10%, 97% and 99% would else be the same.
    """
    errors = [max(100 - value, 1e-3) for value in values]
    highest = max(errors)
    width = math.log(highest / min(errors)) or 1.0
    ticks = [(i / 4, f"{100 - highest * math.exp(-width * i / 4):.4g}") for i in range(5)]
    return [math.log(highest / error) / width for error in errors], ticks


def groups(
    rows: Sequence[dict[str, Any]], knobs: Sequence[Knob]
) -> tuple[list[Knob], Knob, dict[tuple, list[float]]] | None:
    """Best top-1 of the finished points, apart for each choice of the knobs but for seeds.

    Returns:
        The knobs but one, that one, and {keys of their choices: [top1]}; None unless they are one
        to three, of few values each.
    """
    kept = [knob for knob in knobs if knob.name.split(".")[-1] != "seed"]
    if not 1 <= len(kept) <= 3 or not all(knob.few for knob in kept):
        return None
    across = max(kept, key=lambda knob: len(knob.choices))
    down = [knob for knob in kept if knob is not across]
    cells: dict[tuple, list[float]] = {}
    for i, row in enumerate(rows):
        if row["state"] == "finished" and number(row["best_top1"]) is not None:
            at = tuple(key(knob.values[i]) for knob in (*down, across))
            cells.setdefault(at, []).append(row["best_top1"])
    return (down, across, cells) if cells else None
