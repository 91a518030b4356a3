"""Optuna's search of a space: TPE, and successive halving on the evaluations as they come."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from inception.sweeps.study import InUse, Point, exclusive, row

STAGES = 8  # of a trial of some minutes: tools/budget.py evaluates so often
RUNNING = optuna.trial.TrialState.RUNNING


class Search:
    """Trials of a space, stored in STUDY/optuna.log; several processes may share them.

    Args:
        space: {knob: tuple of values, or a range with low, high and log}.
        trials: the number of trials of all workers together.
        minutes: that each trial trains: halving compares trials after equal time. None: after
            equally many evaluations.
        point: (number, knobs) -> the point that a trial trains.

    Attributes:
        missing: the number of trials that have not ended.
    """

    def __init__(
        self,
        folder: str,
        space: Mapping[str, Any],
        *,
        trials: int,
        minutes: float | None = None,
        point: Callable[[int, dict[str, Any]], Point],
    ):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._trials, self._point = space, trials, point
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(f"{folder}/optuna.log")),
            study_name="study",
            load_if_exists=True,
            direction="maximize",
            # NOTE: by default it prunes none before the first trial has ended.
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1),
        )
        self.folder = folder
        self._minutes, self._pruned = minutes, set[int]()
        self._open: dict[int, tuple[optuna.Trial, contextlib.ExitStack]] = {}

    def points(self) -> Iterator[Point]:
        """Yields the points to train: abandoned trials first, then new ones."""
        for trial in self._trials_left():
            with contextlib.ExitStack() as lock:
                try:
                    lock.enter_context(exclusive(f"{self.folder}/{trial.number}"))
                except InUse:  # another worker trains it, or took a new trial for abandoned
                    continue
                if self._study.get_trials(deepcopy=False)[trial.number].state != RUNNING:
                    continue  # another worker has ended it meanwhile
                # Seeded by trial: no other worker or start draws the same random numbers.
                self._study.sampler = optuna.samplers.TPESampler(
                    seed=hash((0, trial.number)) % 2**32, constant_liar=True
                )
                knobs = {knob: self._suggest(trial, knob) for knob in self._space}
                self._open[trial.number] = (trial, lock.pop_all())
            yield self._point(trial.number, knobs)

    def _trials_left(self) -> Iterator[optuna.Trial]:
        for frozen in self._study.get_trials(deepcopy=False, states=(RUNNING,)):
            yield optuna.Trial(self._study, frozen._trial_id)
        while len(self._study.get_trials(deepcopy=False)) < self._trials:
            yield self._study.ask()

    def _suggest(self, trial: optuna.Trial, knob: str) -> Any:
        choices = self._space[knob]
        if hasattr(choices, "low"):
            return trial.suggest_float(knob, choices.low, choices.high, log=choices.log)
        return choices[trial.suggest_categorical(f"{knob}: which", list(range(len(choices))))]

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            knob: params[knob] if hasattr(choices, "low") else choices[params[f"{knob}: which"]]
            for knob, choices in self._space.items()
        }

    def prune(self, point: Point) -> bool:
        """Reports new evaluations to Optuna; returns whether to stop the trial."""
        trial, _ = self._open[point.number]
        known = self._study.get_trials(deepcopy=False)[point.number].intermediate_values
        newest = max(known, default=-1)
        found = row(point)
        for n, ((_, top1), seconds) in enumerate(
            zip(found["curve"], found["seconds"], strict=True)
        ):
            if self._minutes:
                n = max(0, round(STAGES * seconds / (60 * self._minutes)) - 1)
            if n <= newest:
                continue
            trial.report(top1, newest := n)
            # NOTE: asked after several reports, Optuna takes the newest for each rung passed; asked
            # again after a yes, it lets the trial into the next rung.
            if point.number not in self._pruned and trial.should_prune():
                self._pruned.add(point.number)
        return point.number in self._pruned

    def ended(self, point: Point) -> None:
        """Tells Optuna the best top-1 in percent, or that the trial was pruned or failed."""
        self.prune(point)  # reports the last evaluations, which other trials are compared with
        trial, lock = self._open.pop(point.number)
        state = row(point)
        best = state["best_top1"]
        if state["state"] == "failed" or best is None or math.isnan(best):
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif state["state"] == "pruned":
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, best)
        lock.close()

    @property
    def missing(self) -> int:
        trials = self._study.get_trials(deepcopy=False)
        return self._trials - sum(trial.state.is_finished() for trial in trials)

    def rows(self, _states: Mapping[int, str] | None = None) -> list[dict[str, Any]]:
        """`study.row` of every trial so far, of all workers; Optuna knows which of them run."""
        return [
            row(
                self._point(trial.number, self._values(trial.params)),
                state="running" if trial.state == RUNNING else "",
            )
            for trial in self._study.get_trials(deepcopy=False)
            if len(trial.params) == len(self._space)
        ]
