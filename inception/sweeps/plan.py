"""What an experiment's sweep() or space() asks for, checked before anything starts."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from inception.config import CommandLineError, experiment, load_config
from inception.sweeps.study import Point

Check = Callable[[ConfigDict], None]  # raises UserError for a config that cannot run


def points(
    config: str,
    overrides: Sequence[str],
    workdir: str,
    *,
    name: str = "",
    check: Check = lambda _: None,
) -> list[Point]:
    """The points of sweep(), or of sweep_NAME(), of an experiment file.

    Args:
        overrides: flags --config.any.knob=VALUE, for all points.
        workdir: of the study; a point's is its number in it.
        check: is shown each point's config.

    Raises:
        CommandLineError: no such sweep, no point, two alike, or a wrong knob or value.
    """
    found = [
        point(number, dict(knobs), config=config, overrides=overrides, workdir=workdir)
        for number, knobs in enumerate(_call(config, "sweep", name))
    ]
    if not found:
        raise CommandLineError(f"--config={config}: the sweep has no points")
    configs = [_config(config, overrides, p.knobs) for p in found]
    seen: dict[str, int] = {}
    for p, own in zip(found, configs, strict=True):
        whole = own.to_json(sort_keys=True)
        if whole in seen:
            raise CommandLineError(
                f"--config={config}: points {seen[whole]} and {p.number} of the sweep are alike: "
                f"{p.knobs}"
            )
        seen[whole] = p.number
    for own in configs:
        check(own)
    return found


def space(
    config: str, overrides: Sequence[str], *, name: str = "", check: Check = lambda _: None
) -> dict[str, Any]:
    """What space(), or space_NAME(), says a search may choose; arguments and errors as `points`."""
    found = dict(_call(config, "space", name))
    for knob, values in found.items():
        ends = (values.low + 1e-3, values.high) if hasattr(values, "low") else values
        for value in ends:  # an integer knob takes no range of numbers
            own = _config(config, overrides, {knob: value})
            if isinstance(value, str):  # numbers may go together with others of the space alone
                check(own)
    if not found:
        raise CommandLineError(f"--config={config}: the space has no knobs")
    return found


def point(
    number: int, knobs: dict[str, Any], *, config: str, overrides: Sequence[str], workdir: str
) -> Point:
    """One point of a study; its folder is its number."""
    own = f"{workdir}/{number}"
    command = ("train", f"--config={config}", f"--workdir={own}", *_flags(overrides, knobs))
    return Point(number, knobs, own, command)


def _flags(overrides: Sequence[str], knobs: dict[str, Any]) -> list[str]:
    return [*overrides, *(f"--config.{knob}={value}" for knob, value in knobs.items())]


def _config(config: str, overrides: Sequence[str], knobs: dict[str, Any]) -> ConfigDict:
    given = {flag.split("=")[0].lstrip("-") for flag in overrides}
    if both := {f"config.{knob}" for knob in knobs} & given:
        raise CommandLineError(f"--{both.pop()} is what the sweep varies: leave it out")
    found = load_config(config, _flags(overrides, knobs))
    try:
        json.dumps(knobs)
    except TypeError as error:
        raise CommandLineError(
            f"--config={config}: {knobs}: plain values, please: {error}"
        ) from error
    return found


def _call(config: str, kind: str, name: str) -> Any:
    defined = experiment(config)
    known = [n for n in defined if n == kind or n.startswith(f"{kind}_")]
    wanted = f"{kind}_{name}" if name else kind
    if wanted not in known:
        has = ", ".join(f"{n}()" for n in known) or f"no {kind}() at all"
        raise CommandLineError(f"--config={config} defines no {wanted}(); there is {has}")
    try:
        found = defined[wanted]()
        if kind == "space":
            return {knob: _choices(knob, values) for knob, values in found.items()}
        return [{str(knob): value for knob, value in point.items()} for point in found]
    except Exception as error:  # whatever the user's function raises
        raise CommandLineError(
            f"--config={config}: {wanted}(): {type(error).__name__}: {error}"
        ) from error


def _choices(knob: str, values: Any) -> Any:
    if hasattr(values, "low") or (isinstance(values, list | tuple) and values):
        return values if hasattr(values, "low") else tuple(values)
    raise ValueError(f"{knob}: choices must be a tuple of values, uniform() or log_uniform()")
