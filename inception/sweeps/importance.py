"""Which knobs of a study mattered, computed by Optuna, and its figures."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.visualization import matplotlib as plots

from inception.reporting import figures
from inception.reporting.markup import number
from inception.sweeps.study import differing, finished

FEW_VALUES = 8  # up to so many numbers, two points each, count as a choice
FEWEST_FINISHED = 4  # importances of fewer points mean nothing
DEPTH = 6  # of fANOVA's trees: 2 s for 400 points of 5 knobs, minutes with Optuna's 64
LEAST_ERROR = 0.01  # percent; smaller errors are drawn here, on a log axis
CURVES = 20  # the most in a figure, each in its own color
EVALUATOR = optuna.importance.FanovaImportanceEvaluator(max_depth=DEPTH, seed=0)

Rows = Sequence[dict[str, Any]]  # as `page.write` takes them
Coded = dict[str, tuple[BaseDistribution, Sequence[Any]]]  # {knob: (range, one value per point)}

optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise one line per study


def _study(rows: Rows, coded: Coded) -> optuna.Study:
    """The points as trials; unfinished points have only curves."""
    study = optuna.create_study(direction="maximize")
    state = optuna.trial.TrialState
    for i, row in enumerate(rows):
        known = {name: kind for name, (kind, values) in coded.items() if values[i] is not None}
        study.add_trial(
            optuna.create_trial(
                state=state.COMPLETE if finished(row) else state.PRUNED,
                value=row["best_top1"] if finished(row) else None,
                params={name: coded[name][1][i] for name in known},
                distributions=known,
                intermediate_values={
                    x: max(100 - y, LEAST_ERROR) for x, y in row["curve"] if number(y) is not None
                },
            )
        )
    return study


def _coded(values: Sequence[Any], *, by_rank: bool) -> tuple[BaseDistribution, Sequence[Any]]:
    """Codes a knob's values for Optuna, as choices or as numbers; None stays None.

    Args:
        by_rank: replaces numbers by their ranks, because fANOVA depends on their scale.
    """
    present = [value for value in values if value is not None]
    numeric = all(number(value) is not None for value in present)

    def key(value: Any) -> Any:
        if numeric or value is None:
            return value
        return figures.drawable(str(value))

    keys = [key(value) for value in values]
    order: list[Any] = sorted({key for key in keys if key is not None})
    if len(order) <= min(FEW_VALUES, len(present) / 2) or not (numeric or by_rank):
        return CategoricalDistribution(order), keys
    if by_rank:
        return FloatDistribution(0, len(order)), [order.index(key) + 0.5 for key in keys]
    low, high = order[0], order[-1]
    return FloatDistribution(low, high, log=0 < low <= high / 100), keys


def judged(rows: Rows) -> optuna.Study | str:
    """For EVALUATOR: the finished points and the knobs that all of them have; or why not."""
    done = list(filter(finished, rows))
    if len(done) < FEWEST_FINISHED:
        return f"{len(done)} finished so far; importances need {FEWEST_FINISHED}."
    knobs = {name: values for name, values in differing(done).items() if None not in values}
    if not knobs:
        return "The finished points do not differ in any knob that all of them have."
    if len({row["best_top1"] for row in done}) == 1:
        return "All finished points have the same top-1."
    return _study(done, {name: _coded(v, by_rank=True) for name, v in knobs.items()})


def importances(rows: Rows) -> str:
    """A figure: each knob's share of the variance of the best top-1 (fANOVA), or why there is none.

    The shares sum to 1: effects of several knobs together are left out.
    """
    study = judged(rows)
    if isinstance(study, str):
        return f"<p>{study}</p>"
    note = (
        "Shares of the variance of the best top-1 that single knobs explain among the finished "
        "points (fANOVA). A seed's share is that of chance: a knob below it may not matter. "
        "Knobs that some of these points lack are not judged."
    )

    def draw() -> Any:
        axes = plots.plot_param_importances(study, EVALUATOR)
        axes.legend().remove()
        axes.set_title("", loc="left")
        axes.set(xlabel="share", ylabel="")
        return axes

    return figures.captioned(figures.of_library(draw, size=(6, 4)), note)


def curves(rows: Rows) -> str:
    """A figure of the evaluations of the first CURVES points."""
    evaluated = [row for row in rows if any(number(y) is not None for _, y in row["curve"])]
    if not evaluated:
        return "<p>No point has been evaluated yet.</p>"
    first = evaluated[:CURVES]

    def draw() -> Any:
        axes = plots.plot_intermediate_values(_study(first, {}))
        axes.set(title="", xlabel="epoch", ylabel="top-1 error, %", yscale="log")
        axes.legend([f"point {row['number']}" for row in first], bbox_to_anchor=(1, 1))
        return axes

    note = f"{len(first)} of {len(evaluated)} points on the evaluation split, the best first"
    return figures.captioned(figures.of_library(draw, size=(8, 5)), note)


def parallel(rows: Rows) -> str:
    """A figure with a line per finished point, through its top-1 and its knobs."""
    done = list(filter(finished, rows))
    coded = {name: _coded(v, by_rank=False) for name, v in differing(done).items()}
    if not coded:
        return "<p>Nothing to draw before finished points differ.</p>"

    def draw() -> Any:
        study = _study(done, coded)
        axes = plots.plot_parallel_coordinate(study, target_name="best top-1, %")
        axes.set(title="")
        return axes

    drawing = figures.of_library(draw, size=(max(6.0, 1.7 * len(coded)), 4))
    caption = f"{len(done)} finished of {len(rows)} points, the darker the better"
    return f'<div class="wide">{figures.captioned(drawing, caption)}</div>'
