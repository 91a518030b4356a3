"""The table of knobs, and configs made and validated by it."""

import argparse
import inspect
import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inception import UserError, model, pixels
from inception.cli import knobs as command
from inception.config import (
    EVALUATION,
    NETWORK,
    ROOT,
    CommandLineError,
    default_config,
    experiment_config,
    flat,
    load_config,
    run_config,
)
from inception.data import decoding, randaugment
from inception.knobs import KNOBS, TRUNK
from inception.sweeps.plan import Plan
from tests import tiny

BASE = "experiments/base.py"
WRONG = {"bool": "perhaps", "int": "1.5", "float": "fast"}  # of a string's type is everything
# Each refusal as the command line shows it.
REFUSALS = (
    ("model.module=x", "choose one of reduced, naive"),
    ("model.norm=group", "choose one of lrn, batch, none"),
    ("model.conv5x5_px=4", "choose one of 3, 5"),
    ("model.pool4_px=1", "choose one of 2, 3"),
    ("model.padding=valid", "choose one of symmetric, same"),
    ("model.heads_on=4b", "choose one of both, 4a, 4d"),
    ("model.head_pool=x", "choose one of strided, adaptive"),
    ("model.top=x", "choose one of average, fc"),
    ("model.initializer=x", "choose one of he, xavier"),
    ("model.dtype=float16", "choose one of float32, bfloat16"),
    ("model.frozen_through=4f", "choose one of conv1, conv2_reduce, conv2, 3a, 3b, 4a, 4b, 4c, 4d, 4e, 5a, 5b, or nothing"),
    ("model.classes=0", "must be above 0"),
    ("model.width=0.0", "must be above 0"),
    ("model.dropout=1.0", "must be at least 0 and below 1"),
    ("model.head_dropout=1.5", "must be at least 0 and below 1"),
    ("model.drop_path=1.0", "must be at least 0 and below 1"),
    ("optim.gradient_dtype=float16", "choose one of float32, bfloat16"),
    ("optim.schedule=square", "choose one of polynomial, exponential, cosine, linear, constant, one_cycle"),
    ("optim.name=adam", "choose one of sgd, nesterov, rmsprop, adamw, lars, lamb, muon, schedule_free"),
    ("loss.head_schedule=x", "choose one of constant, linear"),
    ("train.sizes=()", "name at least one size"),
    ("distill.temperature=0.0", "must be above 0"),
    ("distill.share=1.5", "must be at most 1"),
    ("data.erasing=1.5", "must be at most 1"),
    ("data.repeats=0", "must be at least 1"),
    ("optim.momentum_style=x", "choose one of optax, caffe"),
    ("optim.batch_size=0", "must be at least 1"),
    ("optim.accumulate=0", "must be at least 1"),
    ("data.source=photos", "choose one of digits, folder, tfds, store, synthetic"),
    ("data.examples=0", "must be at least 1"),
    ("data.decoder=x", "choose fast or exact"),
    ("data.sampler=x", "choose inception or caffe"),
    ("data.area_range=(0.0, 1.0)", "two numbers, 0 < low <= high <= 1"),
    ("data.area_range=(0.5, 1.5)", "two numbers, 0 < low <= high <= 1"),
    ("data.area_range=(0.5,)", "two numbers, 0 < low <= high <= 1"),
    ("data.aspect_range=(2.0, 1.0)", "two numbers, 0 < low <= high"),
    ("data.randaugment.magnitude=11.0", "must be at most 10"),
    ("data.balance=1.5", "must be at most 1"),
    ("loss.class_balance=1.5", "must be at most 1"),
    ("data.bits=7", "from 8 to 32, or 0"),
    ("data.bits=33", "from 8 to 32, or 0"),
    ("data.normalization=x", "choose one of mean, unit, symmetric"),
    ("data.resize=foo", "choose one of short, squash, central_crop"),
    ("run.log_every_steps=0", "must be at least 1"),
    ("run.keep_checkpoints=0", "must be at least 1"),
    ("run.eval_batch_size=0", "must be at least 1"),
    ("run.workers=0", "all, or from 1 to 256 threads"),
    ("run.workers=1000", "all, or from 1 to 256 threads"),
    ("run.workers=-1", "all, or from 1 to 256 threads"),
    ("run.workers=some", "all, or from 1 to 256 threads"),
)  # fmt: skip


def refused_by_base(message: str, *overrides: str, **rules) -> None:
    with pytest.raises(UserError) as raised:
        load_config(BASE, [f"--config.{o}" for o in overrides], **rules)
    assert tiny.as_flags(str(raised.value), ("workdir",)) == f"config.{message}"


# The table


@pytest.mark.parametrize("name", KNOBS)
def test_a_default_is_allowed_and_has_a_reason(name: str) -> None:
    knob = KNOBS[name]
    assert knob.reason.endswith(".") and knob.type.split()[-1] in ("bool", "int", "float", "str")
    assert not knob.misfit(knob.default) and not knob.allowed.refusal(knob.default)
    for choice in knob.allowed.choices:
        value = (choice,) if isinstance(knob.default, tuple) else choice
        assert not knob.misfit(value) and not knob.allowed.refusal(value)


@pytest.mark.parametrize("name", KNOBS)
def test_a_wrong_value_is_refused_with_the_knobs_name(name: str) -> None:
    knob = KNOBS[name]
    if knob.type.startswith("tuple"):
        wrong = "(1,'a')"
    elif knob.type == "str" and knob.allowed.words:
        wrong = "no such choice"
    elif knob.type == "str":
        return
    else:
        wrong = WRONG[knob.type]
    with pytest.raises((CommandLineError, UserError), match=name):
        load_config(BASE, [f"--config.{name}={wrong}"])
    if knob.type in ("int", "float"):
        with pytest.raises(CommandLineError, match=f"--config.{name}=-1.*finite and at least 0"):
            load_config(BASE, [f"--config.{name}=-1"])


@pytest.mark.parametrize("knob", [knob for knob, _ in REFUSALS])
def test_every_choice_and_bound_has_its_words(knob: str) -> None:
    name = knob.split("=")[0]
    refused_by_base(f"{knob}: {dict(REFUSALS)[knob]}", knob)
    assert KNOBS[name].allowed.words == dict(REFUSALS)[knob]


def test_the_refusals_above_are_all() -> None:
    limited = {name for name, knob in KNOBS.items() if knob.allowed.words}
    assert limited == {knob.split("=")[0] for knob, _ in REFUSALS} | {"data.interpolations"}


def test_interpolations_show_how_to_write_them() -> None:
    refused_by_base(
        "data.interpolations has 'lanczos': choose from ('bilinear', 'area', 'nearest', 'cubic'), "
        "written as \"('bilinear','area')\"",
        "data.interpolations=('area','lanczos')",
    )
    refused_by_base("data.interpolations is empty: name at least one", "data.interpolations=()")


def test_the_table_has_the_choices_that_the_code_has() -> None:
    fields = inspect.signature(model.GoogLeNet).parameters
    for name in KNOBS:
        group, _, field = name.partition(".")
        if group == "model":
            assert fields[field].default == KNOBS[name].default, name
    for name, known in (
        ("model.initializer", model.INITIALIZERS),
        ("model.frozen_through", (*model.TRUNK, "")),
        ("data.normalization", pixels.NORMALIZATIONS),
        ("data.interpolations", decoding.INTERPOLATIONS),
        ("data.decoder", decoding.DECODERS),
    ):
        assert KNOBS[name].allowed.choices == tuple(known), name
    assert model.TRUNK == TRUNK and randaugment.HIGHEST == 10


# Types


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rat=1", "nearest is config.optim.learning_rate"),
        ("optm.power=1", "nearest is config.optim.power"),
        ("optim=1", "there is no knob config.optim;"),
        ("optim.learning_rate=fast", "could not convert string to float"),
        ("optim.batch_size=1.5", "invalid literal for int"),
        ("model.heads=perhaps", "Non-boolean"),
        ("data.area_range=(1,'a')", "each element must be a float, as in (0.08, 1.0)"),
        ("data.area_range=(True,1.)", "each element must be a float"),
        ("data.interpolations=1", "each element must be a str, as in ('bilinear', "),
        ("data.seed=-1", "--config.data.seed=-1: must be finite and at least 0"),
        ("data.area_range=(-1.,1.)", "--config.data.area_range=(-1.0, 1.0): must be finite and"),
        ("optim.epochs=nan", "--config.optim.epochs=nan: must be finite and at least 0"),
        ("optim.epochs=inf", "must be finite and at least 0"),
    ],
)  # fmt: skip
def test_a_wrong_type_ends_with_status_2(override: str, message: str) -> None:
    with pytest.raises(CommandLineError) as raised:
        load_config(BASE, [f"--config.{override}"])
    assert message in str(raised.value)


@given(st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.none(),
                 st.tuples(st.floats(), st.floats()), st.tuples(st.text())))  # fmt: skip
def test_whatever_a_file_holds_is_taken_or_refused(value) -> None:
    for knob in KNOBS.values():
        if not knob.misfit(value):
            assert isinstance(knob.allowed.refusal(value), str)
            assert isinstance(value, tuple) == isinstance(knob.default, tuple)
            assert isinstance(value, bool) == isinstance(knob.default, bool)


def test_overrides_arrive_with_their_types() -> None:
    overrides = ["--config.optim.learning_rate=2", "--noconfig.model.heads", "--config.data.mirror=true",
                 "--config.data.interpolations=('area','cubic')", "--config.data.area_range=.5,1."]  # fmt: skip
    config = load_config(tiny.EXPERIMENT, overrides)
    assert config.optim.learning_rate == 2.0 and isinstance(config.optim.learning_rate, float)
    assert config.model.heads is False and config.data.mirror is True
    assert config.data.interpolations == ("area", "cubic")
    assert config.data.area_range == (0.5, 1.0)
    assert config.is_locked


# Knobs together


HEADS = (
    "input_px=64 is too small for the auxiliary heads, whose 5x5 pool needs a grid of 5x5: the "
    "smallest is 65, or turn them off with config.model.heads=False"
)


@pytest.mark.parametrize(
    ("message", "overrides"),
    [
        (
            "optim.warmup_epochs=1.0 and config.optim.warmup_steps=5: give one of them, and 0 for the other",
            ("optim.warmup_epochs=1.", "optim.warmup_steps=5"),
        ),
        (
            "optim.momentum_style=caffe is for config.optim.name=sgd; adamw always has its own: give "
            "config.optim.momentum_style=optax",
            ("optim.name=adamw", "optim.momentum_style=caffe"),
        ),
        (
            "optim.name=schedule_free evaluates a mean of weights, for which BatchNorm has no "
            "statistics: give config.model.norm=none or lrn",
            ("optim.name=schedule_free", "model.norm=batch"),
        ),
        (
            "optim.name=schedule_free averages by itself: give config.optim.schedule=constant, "
            "config.optim.polyak_decay=0, and config.optim.momentum above 0",
            ("optim.name=schedule_free", "optim.schedule=constant"),
        ),
        (
            "train.sizes=(96, 0): config.model.top=fc has one input size",
            ("train.sizes=(96,0)", "model.top=fc"),
        ),
        (
            "train.sizes=(96,) with config.input_px=224: the strided heads have one input size: give "
            "config.model.head_pool=adaptive or config.model.heads=False",
            ("train.sizes=(96,)",),
        ),
        (
            "train.sizes=(300,): config.data.sampler=caffe crops 300 px from config.data.resize_px=256: raise it",
            ("train.sizes=(300,)", "model.heads=False", "data.sampler=caffe"),
        ),
    ],
)
def test_knobs_of_a_recipe_that_exclude_each_other(
    message: str, overrides: tuple[str, ...]
) -> None:
    refused_by_base(message, *overrides)


def test_the_remedies_for_sizes() -> None:
    for remedy in ("model.head_pool=adaptive", "model.heads=False"):
        load_config(BASE, ["--config.train.sizes=(96,0)", f"--config.{remedy}"])


def test_knobs_that_do_not_go_together() -> None:
    refused_by_base(HEADS, "input_px=64")
    refused_by_base(HEADS, "input_px=64", rules=NETWORK)
    for change in ("model.heads=False", "model.head_pool=adaptive"):
        load_config(BASE, ["--config.input_px=64", f"--config.{change}"])
    load_config(BASE, ["--config.input_px=64"], EVALUATION)
    load_config(BASE, ["--config.input_px=65"])
    sizes = "need 1 <= input_px <= resize_px"
    message = f"input_px=299 and config.data.resize_px=256: {sizes}"
    refused_by_base(message, "input_px=299")
    refused_by_base(message, "input_px=299", rules=EVALUATION)
    message = f"input_px=0 and config.data.resize_px=256: {sizes}"
    refused_by_base(message, "input_px=0", "model.heads=False")
    message = "optim.warmup_epochs=3.0: must be shorter than config.optim.epochs=3.0"
    refused_by_base(message, "optim.epochs=3", "optim.warmup_epochs=3")
    for rules in (EVALUATION, NETWORK):
        load_config(BASE, ["--config.optim.warmup_epochs=90"], rules)
    load_config(BASE, ["--config.input_px=299"], NETWORK)


# Experiments


def write(path: pathlib.Path, *lines: str) -> str:
    text = "from experiments import base\ndef get_config():\n    config = base.get_config()\n"
    path.write_text(text + "".join(f"    {line}\n" for line in (*lines, "return config")))
    return str(path)


def test_base_is_the_table() -> None:
    assert load_config(BASE, []).to_dict() == default_config().to_dict()
    assert set(flat(default_config(), prefix="")) == set(KNOBS)
    assert not default_config().is_locked


def test_a_file_with_a_misspelt_knob_or_a_wrong_value(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.py", "config.optim.learning_rat = 1.0")
    with pytest.raises(
        CommandLineError, match=r"a\.py: .* no knob .* is config\.optim\.learning_rate"
    ):
        load_config(path, [])
    path = write(tmp_path / "b.py", "config.data.area_range = (1.0, 'a')")
    with pytest.raises(CommandLineError, match=r"area_range=.* each element must be a float"):
        load_config(path, [])
    path = write(tmp_path / "c.py", "config.model.norm = 'group'")
    with tiny.refused(r"config\.model\.norm=group: choose one of lrn, batch, none"):
        load_config(path, [])


def test_what_an_experiment_leaves_to_the_user_must_be_given() -> None:
    with pytest.raises(
        CommandLineError, match=r"leaves the choice to you: give --config\.data\.path=\.\.\.$"
    ):
        load_config("experiments/imagenet.py", [])
    assert load_config("experiments/imagenet.py", ["--config.data.path=x"]).data.path == "x"


SIZED = """
from experiments import photos
from shared_values import EPOCHS
def get_config(size="0.5"):
    import of_models
    config = photos.get_config()
    config.optim.epochs, config.model.width = EPOCHS, of_models.WIDTHS[size]
    return config
def sweep():
    return [{"seed": 0}]
"""


def folder_of_mine(path: pathlib.Path, epochs: float) -> str:
    """An experiment, modules that it imports, and others that must hide none; returns its path."""
    path.mkdir()
    (path / "shared_values.py").write_text(f"import json, knobs\nEPOCHS = {epochs}")
    (path / "of_models.py").write_text("WIDTHS = {'0.5': 0.5, 'a:b': 2.0}")
    (path / "knobs.py").write_text("")
    for name in ("json", "experiments", "inception", "colorsys"):
        (path / f"{name}.py").write_text("raise SystemError('it hides another')")
    (path / "mine.py").write_text(SIZED)
    return str(path / "mine.py")


def test_an_experiment_elsewhere_imports_what_lies_beside_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    one, two = (folder_of_mine(tmp_path / str(n), epochs=n) for n in (7, 9))
    for file, epochs in ((one, 7), (two, 9), (one, 7)):  # modules of one name
        config = experiment_config(file)
        assert (config.optim.epochs, config.model.width) == (epochs, 0.5)
    (tmp_path / "7/shared_values.py").write_text("import colorsys\nEPOCHS = 10.25")
    assert experiment_config(f"{one}:a:b").model.width == 2.0
    assert experiment_config(one).optim.epochs == 10.25  # edited, as in a notebook
    (tmp_path / "a:b.py").write_text(SIZED.replace("of_models.WIDTHS[size]", "3.0"))
    for name in ("shared_values", "of_models"):
        shutil.copy(tmp_path / f"7/{name}.py", tmp_path)
    assert experiment_config(str(tmp_path / "a:b.py")).model.width == 3.0
    (point,) = Plan(
        f"{one}:a:b", ["--config.data.path=x", "--config.model.classes=3"], "w"
    ).points()
    assert point.command[:2] == ("train", f"--config={one}:a:b")


@pytest.mark.parametrize(
    ("argument", "text", "message"),
    [
        (":large", SIZED, r"mine\.py:large: get_config\('large'\), line 7: KeyError: 'large'$"),
        (":1", "def get_config(): pass", r"get_config\('1'\): TypeError: .* takes 0 positional"),
        ("", "def get_config(size): pass", r"get_config\(\): TypeError: .* missing 1 .*'size'"),
        (":x", "def get_config(size): int(size)", r"get_config\('x'\), line 1: ValueError: inv"),
        ("", "import shared_valus", r"mine\.py cannot be imported: No module named 'shared_valus'$"),
        ("", "def get_config():\n import nowhere", r"line 2: ModuleNotFoundError: .* 'nowhere'$"),
        ("", "def get_config(:", r"mine\.py cannot be imported: invalid syntax"),
    ],
)  # fmt: skip
def test_what_an_experiment_refuses_ends_with_status_2(
    tmp_path: pathlib.Path, monkeypatch, argument: str, text: str, message: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = folder_of_mine(tmp_path / "mine", epochs=1)
    (tmp_path / "mine/mine.py").write_text(text)
    with pytest.raises(CommandLineError, match=message):
        experiment_config(file + argument)


def test_an_argument_for_the_projects_own_experiment() -> None:
    with pytest.raises(CommandLineError, match=r"--config=digits:3: get_config\('3'\): TypeError"):
        experiment_config("digits:3")
    with pytest.raises(CommandLineError, match=r"--config=digit:3: no such file"):
        experiment_config("digit:3")


# Runs


def run_of(workdir: pathlib.Path, config: dict) -> str:
    (workdir / "config.json").write_text(json.dumps(config))
    return str(workdir)


def test_an_older_run_did_what_was_done_before_its_knobs(tmp_path: pathlib.Path) -> None:
    config = json.loads(tiny.config("--config.seed=7").to_json())
    for name in ("decoder", "mixup", "cutmix", "randaugment"):
        del config["data"][name]
    del config["model"]["heads_on"]
    config["run"]["workers"] = 8
    filled = run_config(
        run_of(tmp_path, config), ["--config.run.workers=all", "--config.data.mixup=.1"]
    )
    assert filled.is_locked and filled.seed == 7 and filled.model.heads_on == "both"
    assert filled.data.decoder == "exact" and filled.data.randaugment.layers == 0
    assert (filled.data.mixup, filled.data.cutmix, filled.run.workers) == (0.1, 0.0, "all")
    assert run_config(str(tmp_path), []).run.workers == "8"


def test_a_config_json_is_validated_too(tmp_path: pathlib.Path) -> None:
    config = json.loads(tiny.config().to_json())
    workdir = run_of(tmp_path, config)
    assert run_config(workdir, []) == tiny.config()
    with tiny.refused(r"^config\.model\.norm=group: choose one of lrn, batch, none$"):
        run_config(workdir, ["--config.model.norm=group"])
    run_of(tmp_path, config | {"input_px": "65"})
    with pytest.raises(CommandLineError, match=r"--config\.input_px=65: must be of type int$"):
        run_config(workdir, [])
    run_of(tmp_path, config | {"input_px": 66})
    with tiny.refused(r"^config\.input_px=66 and config\.data\.resize_px=65: need"):
        run_config(workdir, [])


# The reference


def reference(pattern: str = "", config: str = BASE, *overrides: str) -> list[dict]:
    return command.run(argparse.Namespace(pattern=pattern, config=config), list(overrides))["knobs"]


def test_the_reference_has_every_knob(capsys: pytest.CaptureFixture) -> None:
    found = json.loads(json.dumps(reference()))
    assert [row["name"] for row in found] == list(KNOBS)
    assert found[0].keys() == {"name", "value", "type", "choices", "bounds", "reason"}
    out = capsys.readouterr().out
    assert all(row["name"] in out for row in found) and max(map(len, out.splitlines())) <= 80
    row = next(row for row in found if row["name"] == "model.norm")
    assert (row["value"], row["type"], row["choices"]) == ("lrn", "str", ["lrn", "batch", "none"])


def test_the_reference_of_a_pattern_and_an_experiment(capsys: pytest.CaptureFixture) -> None:
    assert [row["name"] for row in reference("--config.optim.acc")] == ["optim.accumulate"]
    assert "data.sampler" in [row["name"] for row in reference("section 6")]
    (row,) = reference("batch_size", "experiments/digits.py", "--config.optim.batch_size=64")[:1]
    assert row["value"] == 64
    assert "64  (int: at least 1; default 256)" in capsys.readouterr().out
    (row,) = reference("data.path", "experiments/imagenet.py")
    assert row["value"] is None and "yours to give" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^momentun: .* the nearest is optim\.momentum$"):
        reference("momentun")


def test_the_table_and_its_page_import_nothing_heavy() -> None:
    code = "import inception.cli.knobs, sys; print({m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    for heavy in ("jax", "flax", "numpy", "PIL", "ml_collections", "absl"):
        assert f"'{heavy}'" not in done.stdout, heavy
