"""Experiment files and runs -> locked configs, with the knobs that flags change."""

import difflib
import math
import pathlib
import runpy
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

ROOT = pathlib.Path(__file__).parents[1]


class CommandLineError(Exception):
    """The command line is wrong: exit status 2."""


def find(path: str) -> pathlib.Path:
    """The experiment file that --config names: from here or, if there is none, in the project."""
    for file in (pathlib.Path(path), ROOT / path):
        if file.is_file():
            return file
    known = sorted(f"experiments/{p.name}" for p in ROOT.glob("experiments/[!_]*.py"))
    raise CommandLineError(f"--config={path}: no such file; there are {', '.join(known)}")


def experiment(path: str) -> dict[str, Any]:
    """What an experiment file defines: get_config(), perhaps sweep()."""
    defined = runpy.run_path(str(find(path)))
    if "get_config" not in defined:
        raise CommandLineError(f"--config={path} defines no get_config()")
    return defined


def load_config(path: str, overrides: list[str]) -> ConfigDict:
    """get_config() of the experiment file, locked, with --config.any.knob=VALUE applied.

    Raises:
        CommandLineError: no such file, a misspelt knob, a value of the wrong type, or none where
            the experiment leaves the choice to the user.
    """
    config = apply_overrides(experiment(path)["get_config"](), overrides)
    if open_knobs := _open_knobs(config, "config"):
        flags_to_give = " ".join(f"--{name}=..." for name in open_knobs)
        raise CommandLineError(f"--config={path} leaves the choice to you: give {flags_to_give}")
    return config


def apply_overrides(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """Applies flags of the form --config.any.knob=VALUE; CommandLineError if one is wrong."""
    config.lock()
    before = config.copy_and_resolve_references()
    knobs = _knobs(config, "config")
    for flag in overrides:
        name = flag.split("=")[0].lstrip("-").removeprefix("no")
        if flag.startswith("-") and name not in knobs:
            near = difflib.get_close_matches(name, knobs, n=1, cutoff=0.0)[0]
            raise CommandLineError(f"{flag}: there is no knob {name}; the nearest is {near}")
    values = flags.FlagValues()
    argv = ["launch.py", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
    except flags.Error as error:
        raise CommandLineError(str(error)) from error
    if rest:
        raise CommandLineError(f"unknown argument {rest[0]}")
    _check_tuples(before, config, "config")
    _check_numbers(config, "config")
    return config


def flat(config: ConfigDict, prefix: str = "config") -> dict[str, Any]:
    """{'config.optim.momentum': .9, ...}."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}"
        found |= flat(value, name) if isinstance(value, ConfigDict) else {name: value}
    return found


def _knobs(config: ConfigDict, prefix: str) -> list[str]:
    names = []
    for key, value in config.items():
        name = f"{prefix}.{key}"
        names += _knobs(value, name) if isinstance(value, ConfigDict) else [name]
    return names


def knob_names() -> list[str]:
    """Every knob of experiments/base.py: seed, optim.learning_rate, ..."""
    base = experiment("experiments/base.py")["get_config"]()
    return [name.removeprefix("config.") for name in _knobs(base, "config")]


def _open_knobs(config: ConfigDict, prefix: str) -> list[str]:
    """Placeholders that nothing has filled."""
    names = []
    for key, value in config.items():
        name = f"{prefix}.{key}"
        if isinstance(value, ConfigDict):
            names += _open_knobs(value, name)
        elif value is None:
            names.append(name)
    return names


def _check_tuples(before: ConfigDict, after: ConfigDict, name: str) -> None:
    """ml_collections checks types, but not those inside a tuple."""
    for key, old in before.items():
        new = after[key]
        if isinstance(old, ConfigDict):
            _check_tuples(old, new, f"{name}.{key}")
        elif isinstance(old, tuple):
            kind = (int, float) if isinstance(old[0], float) else type(old[0])
            if not all(isinstance(value, kind) for value in new):
                raise CommandLineError(
                    f"--{name}.{key}={new}: each element must be a {type(old[0]).__name__}, "
                    f"as in {old}"
                )


def _check_numbers(config: ConfigDict, name: str) -> None:
    """No knob has a meaning below 0."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            _check_numbers(value, f"{name}.{key}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not 0 <= number < math.inf:
                raise CommandLineError(f"--{name}.{key}={value}: must be finite and at least 0")


def run_config(workdir: str, overrides: list[str]) -> ConfigDict:
    """The config that the run in `workdir` was started with."""
    from inception.runtime import checkpoint

    return apply_overrides(ConfigDict(checkpoint.read_config(workdir)), overrides)
