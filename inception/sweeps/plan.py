"""The points of an experiment's sweep() or its space(), checked before anything starts."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from inception import UserError
from inception.config import CommandLineError, experiment, flat, load_config
from inception.sweeps import study
from inception.sweeps.study import Point

if TYPE_CHECKING:
    from inception.sweeps.search import Search  # imports Optuna, which a grid does not need


@dataclasses.dataclass(frozen=True)
class Plan:
    """The definition of a study.

    Attributes:
        config: the experiment file.
        overrides: flags --config.any.knob=VALUE, for all points.
        workdir: the study's folder; a point's folder in it is its number.
        name: NAME of sweep_NAME() or space_NAME(); '' for sweep() or space().
        minutes: of each point's training; None: as many epochs as its config says.
    """

    config: str
    overrides: Sequence[str]
    workdir: str
    name: str = ""
    minutes: float | None = None

    def points(self) -> list[Point]:
        """The points of sweep().

        Raises:
            CommandLineError: no such sweep, no points, two equal points, or a wrong knob.
            UserError: a value out of its bounds.
        """
        found = [self.point(number, knobs) for number, knobs in enumerate(self._call("sweep"))]
        seen: dict[str, Point] = {}
        for p in found:
            first = seen.setdefault(self._load(p.knobs).to_json(sort_keys=True), p)
            if first is not p:
                raise self._error(
                    f"points {first.number} and {p.number} of the sweep are alike: {p.knobs}"
                )
        return found

    def space(self) -> dict[str, Any]:
        """Returns {knob: choices} of space(), checked; raises what `points` raises."""
        found = self._call("space")
        for knob, values in found.items():
            ends = (values.low + 1e-3, values.high) if hasattr(values, "low") else values
            for value in ends:  # an integer knob takes no range of numbers
                try:
                    self._load({knob: value})
                except UserError:
                    if isinstance(value, str):
                        raise  # a number may be valid only beside other values of the space
        return found

    def point(self, number: int, knobs: dict[str, Any]) -> Point:
        """One point of the study; its folder is its number."""
        own = f"{self.workdir}/{number}"
        command = ["train", f"--config={self.config}", f"--workdir={own}", *self._flags(knobs)]
        command += [f"--minutes={self.minutes:g}"] if self.minutes else []
        return Point(number, knobs, own, tuple(command))

    def grid(self, points: Sequence[Point]) -> study.Grid:
        """Creates the study of these points in its folder."""
        self._create({"points": [p.knobs for p in points]})
        return study.Grid(self.workdir, points)

    def search(self, space: Mapping[str, Any], trials: int) -> "Search":
        """Creates the study of `trials` trials in the space, in its folder."""
        from inception.sweeps.search import Search

        self._create({"space": {knob: str(values) for knob, values in space.items()}})
        return Search(self.workdir, space, trials=trials, minutes=self.minutes, point=self.point)

    def _create(self, varied: dict[str, Any]) -> None:
        knobs = flat(load_config(self.config, list(self.overrides)))
        knobs |= {"minutes": self.minutes} if self.minutes else {}
        fixed = {knob: v for knob, v in knobs.items() if not knob.startswith("config.run.")}
        study.create(self.workdir, fixed | varied)

    def _flags(self, knobs: dict[str, Any]) -> list[str]:
        return [*self.overrides, *(f"--config.{knob}={value}" for knob, value in knobs.items())]

    def _load(self, knobs: dict[str, Any]) -> ConfigDict:
        given = {flag.split("=")[0].lstrip("-") for flag in self.overrides}
        if both := {f"config.{knob}" for knob in knobs} & given:
            raise CommandLineError(f"--{both.pop()} is what the sweep varies: leave it out")
        found = load_config(self.config, self._flags(knobs))
        try:
            json.dumps(knobs)
        except TypeError as error:
            raise self._error(f"{knobs}: values must be plain: {error}") from error
        return found

    def _call(self, kind: str) -> Any:
        """[{knob: value}] of sweep(), {knob: choices} of space()."""
        defined = experiment(self.config)
        known = [n for n in defined if n == kind or n.startswith(f"{kind}_")]
        wanted = f"{kind}_{self.name}" if self.name else kind
        if wanted not in known:
            others = ", ".join(f"{n}()" for n in known) or f"no {kind}() at all"
            text = f"--config={self.config} defines no {wanted}(); there is {others}"
            raise CommandLineError(text)
        try:
            found = defined[wanted]()
            if kind == "space":
                found = {knob: _choices(knob, values) for knob, values in found.items()}
            else:
                found = [{str(knob): value for knob, value in point.items()} for point in found]
        except Exception as error:  # whatever the user's function raises
            raise self._error(f"{wanted}(): {type(error).__name__}: {error}") from error
        if not found:
            raise self._error(f"the {kind} has no {'knobs' if kind == 'space' else 'points'}")
        return found

    def _error(self, text: str) -> CommandLineError:
        return CommandLineError(f"--config={self.config}: {text}")


def _choices(knob: str, values: Any) -> Any:
    if hasattr(values, "low"):
        return values
    if isinstance(values, list | tuple) and values:
        return tuple(values)
    raise ValueError(f"{knob}: choices must be a tuple of values, uniform() or log_uniform()")
