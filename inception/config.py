"""Experiment files and runs -> locked configs, validated by the table of knobs.

Code that receives a config does not check its knobs again.
"""

from __future__ import annotations

import difflib
import os
import pathlib
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inception import UserError
from inception.knobs import KNOBS

if TYPE_CHECKING:  # imported when a config is made: the command line's help needs none
    from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).parents[1]
# How this process was started: by the command that pip installs, or by the checkout's file.
STARTED_AS = "inception" if pathlib.Path(sys.argv[0]).name == "inception" else "python launch.py"
SMALLEST_PX_WITH_HEADS = 4 * 2**4 + 1  # model.py's: importing it would load JAX
BEFORE = {"data.decoder": "exact"}  # the value before the knob existed, where not its default
BESIDE: list[str] = []  # the last experiment's folder, where it is on sys.path for it alone


class CommandLineError(Exception):
    """The command line is wrong: exit status 2."""


def find(path: str) -> tuple[pathlib.Path, list[str]]:
    """FILE[:ARG], from the current folder or the project, or an experiment's name; [] or [ARG]."""
    for name, colon, argument in ((path, "", ""), path.partition(":")):
        for file in (os.path.expanduser(name), ROOT / name, ROOT / f"experiments/{name}.py"):
            if os.path.isfile(file):
                return pathlib.Path(file), [argument] if colon else []
    known = ", ".join(sorted(p.stem for p in ROOT.glob("experiments/[!_]*.py")))
    raise CommandLineError(f"--config={path}: no such file, and none of the experiments {known}")


def experiment(path: str) -> dict[str, Any]:
    """The names that an experiment file defines: get_config(), perhaps sweep()."""
    file, _ = find(path)
    _import_beside(str(file.resolve().parent))
    try:
        defined = runpy.run_path(str(file))
    except (ImportError, SyntaxError) as error:
        raise CommandLineError(f"--config={path} cannot be imported: {error}") from error
    if "get_config" not in defined:
        raise CommandLineError(f"--config={path} defines no get_config()")
    return defined


def _import_beside(folder: str) -> None:
    """Lets an experiment import its folder's modules: anew, and after all others of their names."""
    for name, module in list(sys.modules.items()) if BESIDE else ():
        if os.path.dirname(getattr(module, "__file__", None) or "") in BESIDE:
            del sys.modules[name]
    # NOTE: without ROOT on the path, an editable install looks for its own packages last.
    others = [path for path in (*sys.path, str(ROOT)) if path not in BESIDE]
    BESIDE[:] = {folder} - {*others, str(ROOT / "experiments")}
    sys.path[:] = [*dict.fromkeys(others), *BESIDE]


def folders(text: str) -> list[str]:
    """'a,b' -> ['a', 'b']; an existing folder's name may contain commas."""
    names, rest = [], text.split(",")
    while rest:
        joined = [",".join(rest[:n]) for n in range(len(rest), 1, -1)]
        name = next((j for j in joined if os.path.isdir(os.path.expanduser(j))), rest[0])
        names.append(name)
        del rest[: name.count(",") + 1]
    return [name for name in names if name]


# Rules about several knobs: each raises UserError for a config that breaks it.


def training_sizes(config: ConfigDict) -> tuple[int, ...]:
    """The sizes of training images in px, each for an equal share of the run."""
    return tuple(px or config.input_px for px in config.train.sizes)


def one_network_for_all_sizes(config: ConfigDict) -> None:
    """No layer's parameters depend on the size of the input where it changes."""
    sizes, model = {*training_sizes(config), config.input_px}, config.model
    if len(sizes) == 1:
        return
    if model.top == "fc":
        raise UserError(f"`train.sizes`={config.train.sizes}: `model.top`=fc has one input size")
    if model.heads and model.head_pool == "strided":
        raise UserError(
            f"`train.sizes`={config.train.sizes} with `input_px`={config.input_px}: the strided "
            "heads have one input size: give `model.head_pool`=adaptive or `model.heads`=False"
        )
    largest = max(sizes)
    if config.data.sampler == "caffe" and largest > config.data.resize_px:
        raise UserError(
            f"`train.sizes`={config.train.sizes}: `data.sampler`=caffe crops {largest} px from "
            f"`data.resize_px`={config.data.resize_px}: raise it"
        )


def heads_have_room(config: ConfigDict) -> None:
    """The input is large enough for the heads' strided pool."""
    px, model = config.input_px, config.model
    if px < SMALLEST_PX_WITH_HEADS and model.heads and model.head_pool == "strided":
        raise UserError(
            f"`input_px`={px} is too small for the auxiliary heads, whose 5x5 pool needs a grid of "
            f"5x5: the smallest is {SMALLEST_PX_WITH_HEADS}, or turn them off with "
            "`model.heads`=False"
        )


def crops_fit(config: ConfigDict) -> None:
    """A crop of input_px fits into an image of resize_px."""
    px, resize_px = config.input_px, config.data.resize_px
    if not 1 <= px <= resize_px:
        sizes = f"`input_px`={px} and `data.resize_px`={resize_px}"
        raise UserError(f"{sizes}: need 1 <= input_px <= resize_px")


def warmup_ends(config: ConfigDict) -> None:
    """The warm-up, in epochs or in steps, is shorter than the run."""
    warmup, epochs, steps = (config.optim[k] for k in ("warmup_epochs", "epochs", "warmup_steps"))
    if warmup >= epochs:
        text = f"`optim.warmup_epochs`={warmup}: must be shorter than `optim.epochs`={epochs}"
        raise UserError(text)
    if warmup and steps:
        given = f"`optim.warmup_epochs`={warmup} and `optim.warmup_steps`={steps}"
        raise UserError(f"{given}: give one of them, and 0 for the other")


def optimizer_fits(config: ConfigDict) -> None:
    """Only sgd has two conventions of momentum; schedule_free has an average and no schedule."""
    name, style = config.optim.name, config.optim.momentum_style
    if name == "schedule_free" and config.model.norm == "batch":
        raise UserError(
            "`optim.name`=schedule_free evaluates a mean of weights, for which BatchNorm has no "
            "statistics: give `model.norm`=none or lrn"
        )
    if name == "schedule_free" and not (
        config.optim.schedule == "constant"
        and config.optim.polyak_decay == 0 < config.optim.momentum
    ):
        raise UserError(
            "`optim.name`=schedule_free averages by itself: give `optim.schedule`=constant, "
            "`optim.polyak_decay`=0, and `optim.momentum` above 0"
        )
    if name != "sgd" and style != KNOBS["optim.momentum_style"].default:
        raise UserError(
            f"`optim.momentum_style`={style} is for `optim.name`=sgd; {name} always has its own: "
            "give `optim.momentum_style`=optax"
        )


Rules = Sequence[Callable[["ConfigDict"], None]]
TRAINING: Rules = (heads_have_room, crops_fit, warmup_ends, optimizer_fits,
                   one_network_for_all_sizes)  # fmt: skip
EVALUATION: Rules = (crops_fit,)
# For commands without images and schedule.
NETWORK: Rules = (heads_have_room, one_network_for_all_sizes)


def default_config() -> ConfigDict:
    """Every knob at its default."""
    from ml_collections import ConfigDict

    return _filled(ConfigDict(), {})


def load_config(path: str, overrides: Sequence[str], rules: Rules = TRAINING) -> ConfigDict:
    """get_config() of the experiment file, locked, with --config.any.knob=VALUE applied.

    Args:
        rules: the rules about several knobs that the use of the config requires.

    Raises:
        CommandLineError: no such file, a misspelt knob, a value of the wrong type or below 0, or
            no value where the experiment leaves the choice to the user.
        UserError: an unknown choice, a number out of range, a broken rule.
    """
    config = apply_overrides(experiment_config(path), overrides)
    if open_knobs := [f"--{name}=..." for name, value in flat(config).items() if value is None]:
        given = " ".join(open_knobs)
        raise CommandLineError(f"--config={path} leaves the choice to you: give {given}")
    for rule in rules:
        rule(config)
    return config


def experiment_config(path: str) -> ConfigDict:
    """get_config() or get_config(ARG) of an experiment; values left to the user are None."""
    file, argument = find(path)
    get_config = experiment(path)["get_config"]
    try:
        config = get_config(*argument)
    except (ImportError, LookupError, TypeError, ValueError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in frames if frame.filename == str(file)]
        call = f"get_config({', '.join(map(repr, argument))}){''.join(lines[-1:])}"
        text = f"--config={path}: {call}: {type(error).__name__}: {error}"
        raise CommandLineError(text) from error
    # A file that does not start from base.py may lack newer knobs.
    config = _filled(config, BEFORE)
    for name in flat(config):
        _check_name(f"--config={path}", name, [f"config.{knob}" for knob in KNOBS])
    return config


def run_config(workdir: str, overrides: Sequence[str], rules: Rules = EVALUATION) -> ConfigDict:
    """The config that the run in `workdir` was started with, as `load_config` returns it.

    A knob newer than the run has the value that applied before the knob existed.
    """
    from ml_collections import ConfigDict

    from inception.runtime.workdir import read_config

    config = _filled(ConfigDict(read_config(workdir)), BEFORE)
    with config.ignore_type():
        config.run.workers = str(config.run.workers)  # a number in older runs
    config = apply_overrides(config, overrides)
    for rule in rules:
        rule(config)
    return config


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Applies flags --config.any.knob=VALUE, locks the config, and checks each knob that is set."""
    from absl import flags
    from ml_collections import config_flags

    config.lock()
    for flag in overrides:
        if flag.startswith("-"):
            name = flag.split("=")[0].lstrip("-").removeprefix("no")
            _check_name(flag, name, list(flat(config)))
    values = flags.FlagValues()
    argv = ["launch.py", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
    except flags.Error as error:
        raise CommandLineError(str(error)) from error
    if rest:
        raise CommandLineError(f"unknown argument {rest[0]}")
    given = {k: v for k, v in flat(config, prefix="").items() if k in KNOBS and v is not None}
    for name, value in given.items():
        if misfit := KNOBS[name].misfit(value):
            raise CommandLineError(f"--config.{name}{misfit}")
        if refusal := KNOBS[name].allowed.refusal(value):
            raise UserError(f"`{name}`{refusal}")
    return config


def flat(config: ConfigDict, prefix: str = "config.") -> dict[str, Any]:
    """Knobs by their full names: {'config.optim.momentum': .9, ...}."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if hasattr(value, "items") else {name: value}
    return found


def _filled(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    """Adds the missing knobs to the config, with the values of `values` or their defaults."""
    with config.unlocked():
        for name, knob in KNOBS.items():
            *groups, last = name.split(".")
            owner = config
            for group in groups:
                if group not in owner:
                    owner[group] = {}
                owner = owner[group]
            if last not in owner:
                owner[last] = values.get(name, knob.default)
    return config


def _check_name(flag: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise CommandLineError(f"{flag}: there is no knob {name}; the nearest is {near}")
