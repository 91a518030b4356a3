"""The command line as a newcomer meets it: results, exit statuses, errors of one line."""

import argparse
import csv
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import zipfile

import jax.numpy as jnp
import pytest

import launch
from benchmarks import faults, tree
from inception import __version__
from inception.cli import audit, flags, networks, overview, predict, submit, train
from inception.cli.errors import explain
from inception.cli.main import COMMANDS, parser
from inception.config import CommandLineError, load_config
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
# A process of its own has one device and lenient promotion, as a user's has; compiled fast.
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if "PROMOTION" not in k},
    "XLA_FLAGS": faults.compile_fast(),
}


def process(*args: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "launch.py", *args],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, **kwargs,
    )  # fmt: skip


def fails(capfd: pytest.CaptureFixture, args: list[str], *, status: int) -> str:
    """Runs a command that must fail so; returns its one line."""
    assert launch.main(args) == status
    out, err = capfd.readouterr()
    assert "Traceback" not in err and not out
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"launch.py {args[0]}: ")
    return last


def train_args(workdir: pathlib.Path, *overrides: str) -> list[str]:
    return [
        "train",
        f"--config={tiny.EXPERIMENT}",
        f"--workdir={workdir}",
        *tiny.OVERRIDES,
        *overrides,
    ]


# The command line itself


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    shown = process("--help")
    assert shown.returncode == 0
    for command in ("train", "eval", "predict", "sweep", "report", "audit"):
        assert command in shown.stdout
        one = process(command, "--help")
        assert one.returncode == 0 and "--json" in one.stdout
    assert process().returncode == 2
    assert process("--config=x.py").returncode == 2
    wrong = process("tarin", "--help")
    line = "launch.py: tarin: no such command; the nearest is train; see launch.py --help\n"
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", line)
    code = "import inception, launch, sys; print(sorted({m.split('.')[0] for m in sys.modules}))"
    modules = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for heavy in ("jax", "flax", "numpy", "grain", "orbax", "PIL", "matplotlib", "sklearn"):
        assert f"'{heavy}'" not in modules


def test_the_first_page_has_every_command_in_80_columns() -> None:
    page = overview.page()
    assert max(map(len, page.splitlines())) < 80
    named = [name for names in overview.GROUPS.values() for name in names]
    assert sorted(named) == sorted(COMMANDS)
    for first in overview.FIRST:
        command, *flags = first.split()
        args = parser(command).parse_intermixed_args(flags)  # ends with status 2 at a wrong flag
        assert args.command == command and f" {first} " in page


def test_the_command_that_pip_installs(tmp_path: pathlib.Path) -> None:
    """The same commands under its own name, experiments by theirs, from any folder."""

    def inception(*args: str) -> subprocess.CompletedProcess:
        command = [str(pathlib.Path(sys.executable).parent / "inception"), *args]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT
        )

    assert inception("--version").stdout == f"inception {__version__}\n"
    assert "\n  inception train --config=digits --workdir=runs/digits" in inception().stdout
    line = inception("train", "--config=digit", "--workdir=x").stderr
    assert line.startswith("inception train: --config=digit: no such file") and "digits, " in line
    knob = json.loads(inception("knobs", "epochs", "--config=digits", "--json").stdout)
    assert "optim.epochs" in {row["name"] for row in knob["knobs"]}


@pytest.mark.faults
def test_a_wheel_has_all_but_the_tests(tmp_path: pathlib.Path) -> None:
    """pip builds it in an environment of its own, for which it asks the package registry."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in n}
    assert names == {str(p.relative_to(ROOT)) for p in tree.sources()} | {
        "inception/data/imagenet.txt"
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.optim.learning_rat=1", "nearest is config.optim.learning_rate"),
        ("--config.optm.power=1", "nearest is config.optim.power"),
        ("--config.learning_rate=1", "nearest is config.optim.learning_rate"),
        ("--config.optim.learning_rate=fast", "could not convert string to float"),
        ("--config.optim.batch_size=1.5", "invalid literal for int"),
        ("--config.model.heads=perhaps", "Non-boolean"),
        ("--config.data.area_range=(1,'a')", "each element must be a float"),
        ("--config.data.interpolations=1", "each element must be a str"),
        ("--config.optim=1", "there is no knob config.optim;"),
        ("--config.data.seed=-1", "--config.data.seed=-1: must be finite and at least 0"),
        ("--config.optim.epochs=nan", "must be finite and at least 0"),
        ("--workdr=x", "unknown flag --workdr=x"),
        ("stray", "unknown argument stray"),
    ],
)  # fmt: skip
def test_a_wrong_knob_or_value_is_named_with_the_right_one(
    tmp_path, capfd, override: str, message: str
) -> None:
    line = fails(capfd, ["train", f"--workdir={tmp_path}/run", override], status=2)
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "flag", "message"),
    [
        ("eval", "--crops=1,7", "choose from 1, 10, 144"),
        ("eval", "--crops=", "choose from 1, 10, 144"),
        ("eval", "--checkpoints=,", "give a folder"),
        ("predict", "--crops=7", "choose from 1, 10, 144"),
        ("predict", "--crops=1,10", "choose from 1, 10, 144"),
        ("predict", "--topk=0", "must be a whole number, at least 1"),
        ("predict", "--topk=-1", "must be a whole number, at least 1"),
        ("predict", "--checkpoint=,", "give a folder"),
        ("prepare", "--short_side=0", "must be a whole number, at least 1"),
        ("prepare", "--quality=101", "must be a whole number, from 1 to 100"),
    ],
)
def test_a_wrong_flag_is_named_with_what_it_takes(
    capfd, command: str, flag: str, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        launch.main([command, flag])
    assert ended.value.code == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"launch.py {command}: error: argument {flag.split('=')[0]}: ")
    assert line.endswith(message)


def test_commas_in_the_name_of_a_folder(tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "lr=.1,width=.5"):
        (tmp_path / name).mkdir()
    assert networks.folders("lr=.1,width=.5") == ["lr=.1,width=.5"]
    assert networks.folders("a,lr=.1,width=.5,b") == ["a", "lr=.1,width=.5", "b"]
    assert networks.folders("a,,c") == ["a", "c"]


def test_of_five_classes_no_top_5_is_printed() -> None:
    result = {"top1_error": 12.5, "top5_error": 0.0, "count": 8}
    assert flags.errors(result, 5) == "top-1 error 12.50% on 8 images"
    assert flags.errors(result, 6) == "top-1 error 12.50%, top-5 error 0.00% on 8 images"


def test_a_config_that_is_not_there_or_is_none(tmp_path, capfd) -> None:
    line = fails(capfd, ["audit", "--config=experiments/x.py"], status=2)
    assert "no such file, and none of the experiments ablations, base" in line
    (tmp_path / "x.py").write_text("")
    assert "defines no get_config" in fails(capfd, ["audit", f"--config={tmp_path}/x.py"], status=2)


def test_a_run_can_be_run_again(tmp_path: pathlib.Path) -> None:
    tiny_run = tiny.config("--config.seed=7")
    (tmp_path / "config.json").write_text(tiny_run.to_json())

    def config(*flags: str):
        argv = ["--workdir=x", *flags]
        args, overrides = parser("train").parse_known_args(argv)
        return train.train_config(args, overrides)

    assert config(f"--from_run={tmp_path}") == tiny_run
    assert config(f"--from_run={tmp_path}", "--config.seed=8").seed == 8
    with pytest.raises(CommandLineError, match="--config or --from_run"):
        config(f"--from_run={tmp_path}", "--config=experiments/digits.py")


def test_pictures_may_stand_between_flags_and_knobs(monkeypatch) -> None:
    given = []
    monkeypatch.setattr(predict, "run", lambda *got: given.append(got) or {})
    flags = ["--checkpoint=x", "a", "--topk=1", "b", "--config.data.resize=squash", "c", "--json"]
    assert launch.main(["predict", *flags]) == 0
    ((args, overrides),) = given
    assert args.images == ["a", "b", "c"] and args.topk == 1
    assert overrides == ["--config.data.resize=squash"]


def test_what_runs_in_a_job_does_not_say_where() -> None:
    own = ["train", "--config=a.py", "--workdir", "w", "--config.seed=1", "--json"]
    where = ["--on", "slurm", "--nodes=2", "--dry_run", "--env", "A=b", "--time=1:00:00", "--spot"]
    assert submit.without_launchers([*own[:2], *where, *own[2:]]) == own


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nodes=2"], "--nodes is not for --on=local"),
        (["--on=slurm", "--spot"], "--spot is not for --on=slurm"),
        (["--on=sky", "--time=1:00"], "--time is not for --on=sky"),
        (["--on=sky", "--restarts=1"], "--restarts is not for --on=sky"),
        (["--dry_run"], "--dry_run is for --on=slurm and --on=sky"),
    ],
)
def test_flags_of_another_launcher_are_refused(tmp_path, capfd, flags: list[str], message: str):
    assert message in fails(capfd, ["train", f"--workdir={tmp_path}/run", *flags], status=2)


def test_the_table_of_launchers_has_all_their_flags() -> None:
    known = argparse.ArgumentParser()
    flags.add_launchers(known)
    named = set().union(*flags.LAUNCHER_FLAGS.values())
    assert named == vars(known.parse_args([])).keys() - {"on", "dry_run"} | {
        "processes",
        "restarts",
    }


def test_a_run_imports_its_own_command_alone() -> None:
    """Of the project: what a training run reads stays small."""
    code = "import sys; from inception.cli.main import parser; parser('train'); print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {m for m in modules if m.startswith(("inception.", "experiments"))} == {
        "inception.cli", "inception.cli.main", "inception.cli.train", "inception.cli.flags",
        "inception.config", "inception.knobs",
    }  # fmt: skip


# Commands


@pytest.mark.slow
def test_audit(capfd) -> None:
    assert launch.main(["audit", "--json"]) == 0
    out, _ = capfd.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert len(out.splitlines()) == 1
    assert result["total"]["params"] == 6_998_552
    assert result["rows"][0].keys() >= {"name", "params", "params_paper", "macs", "macs_paper"}
    assert launch.main(["audit"]) == 0
    assert "13,378,280" in capfd.readouterr().out


def test_a_full_device_is_named_in_one_line(monkeypatch, capfd) -> None:
    monkeypatch.setattr(audit, "run", lambda *_: jnp.zeros(10**14))
    error = fails(capfd, ["audit"], status=1)
    assert "400000000000000 bytes" in error and "config.run.eval_batch_size" in error


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "nothing"])
def test_a_platform_that_is_not_there(platform: str, tmp_path, monkeypatch) -> None:
    if platform == "cuda" and any(pathlib.Path("/dev").glob("nvidia*")):
        pytest.skip("there is a GPU")
    monkeypatch.setitem(ENVIRONMENT, "JAX_PLATFORMS", platform)
    done = process(*train_args(tmp_path))
    *_, line = done.stderr.splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"JAX starts no device with JAX_PLATFORMS={platform}" in line


@pytest.mark.parametrize("args", ["audit", "predict --checkpoint=x y.jpg", "eval --workdir=x"])
def test_a_fresh_clone_without_its_environment(args: str) -> None:
    command = [sys.executable, "-ES", "launch.py", *args.split()]  # without installed packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "run `make .venv/installed && . .venv/bin/activate`" in done.stderr


def test_another_missing_import_is_a_bug() -> None:
    error = ModuleNotFoundError("No module named 'boto3'", name="boto3")
    with pytest.raises(ModuleNotFoundError):
        explain(error, argparse.Namespace())


SMALLER = (  # a process that trains it takes a third of the time
    "--config.model.norm=none",
    "--config.model.heads=false",
    "--config.input_px=33",
    "--config.data.resize_px=33",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, pathlib.Path]:
    """A tiny run by a process of its own."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    done = process(*train_args(workdir, *SMALLER), "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return json.loads(done.stdout), workdir


@pytest.mark.slow
def test_train(trained) -> None:
    result, _ = trained
    assert result.keys() >= {
        "steps", "images_per_second", "params_digest", "top1_error", "top5_error", "count", "crops", "models"
    }  # fmt: skip


@pytest.mark.slow
def test_eval_needs_no_config_and_takes_a_split_and_the_best(trained, capfd) -> None:
    result, workdir = trained
    for more, count in (([], 32), (["--best"], 32), (["--split=train"], 32)):
        assert launch.main(["eval", f"--workdir={workdir}", "--json", *more]) == 0
        got = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert got["count"] == count
        if not more:
            assert got["top1_error"] == result["top1_error"]
    wider = fails(capfd, ["eval", f"--workdir={workdir}", "--config.model.width=0.1"], status=1)
    assert "config.model.width=0.1, but" in wider
    other = ["eval", f"--workdir={workdir}", "--config.data.normalization=unit"]
    assert "was trained with symmetric: give" in fails(capfd, other, status=1)
    nowhere = workdir.parent / "nowhere"
    assert "no config.json" in fails(capfd, ["eval", f"--workdir={nowhere}"], status=1)
    assert not nowhere.exists()


@pytest.mark.slow
def test_report_of_one_run_and_of_two(trained, tmp_path, capfd) -> None:
    _, workdir = trained
    page = tmp_path / "pages" / "two.html"
    assert launch.main(["report", str(workdir), str(workdir), f"--output={page}", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"page": str(page)}
    html = (workdir / "report.html").read_text()
    for part in ("Loss per head", "Accuracy per head", "Learning rate", "Throughput", "Confusion",
                 "Worst mistakes", "First-layer filters", "Command", "Environment", "Config"):  # fmt: skip
        assert part in html
    assert "launch.py train" in html and "learning_rate: 0.02" in html
    assert html.count("<svg") == 5 + ("Waiting for data" in html)  # a run may have waited
    for outside in ('src="http', "<script", "<link", "@import", 'src="/'):
        assert outside not in html
    assert all(t[1] == "#" or t[1:6] == "data:" for t in html.split("href=")[1:])
    assert "is not a run" in fails(capfd, ["report", str(tmp_path), "--output=x.html"], status=1)


@pytest.mark.slow
def test_runs_of_one_recipe_are_a_line_of_the_table(trained, tmp_path, capfd) -> None:
    """Three that differ in their seeds, one of another rate, one on other classes; as a study."""
    _, workdir = trained
    (study := tmp_path / "study").mkdir()
    (study / "study.json").touch()
    (study / "worker").mkdir()
    begun = ["report", str(study), f"--output={tmp_path}/x.csv"]
    assert "study in which no point has begun" in fails(capfd, begun, status=1)
    points = [(0, 0.02, 10.0), (1, 0.02, 20.0), (2, 0.02, 60.0), (0, 0.5, 90.0), (0, 0.02, 30.0)]
    for i, (seed, rate, error) in enumerate(points):
        folder = study / str(i)
        shutil.copytree(workdir, folder)
        config, result = (
            json.loads((folder / f"{n}.json").read_text()) for n in ("config", "eval")
        )
        config["seed"], config["optim"]["learning_rate"] = seed, rate
        config["data"]["seed"], config["data"]["path"] = seed, f"photos{i}"
        result["classes"] = ["other"] * 3 if i == 4 else result["classes"]
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "eval.json").write_text(json.dumps(result | {"top1_error": error}))
    table = tmp_path / "tables" / "runs.csv"
    assert launch.main(["report", str(study), f"--output={table}", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"page": str(table)}
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["runs"] for row in rows] == ["3", "1", "1"]
    # 90, 80 and 40: by hand.
    assert [rows[0][k] for k in ("top1", "top1_std", "top1_low", "top1_high")] == [
        "70.00", "26.46", "40.00", "90.00"
    ]  # fmt: skip
    assert (rows[1]["top1"], rows[1]["top1_std"]) == ("10.00", "")
    assert rows[0]["experiment"] == "digits" and "model.width=0.05" in rows[0]["changes"]
    again = rows[0]["command"].replace("RUN", str(tmp_path / "again"))
    assert "config.seed" not in again
    config = load_config(tiny.EXPERIMENT, [a for a in shlex.split(again) if "config." in a])
    saved = json.loads((workdir / "config.json").read_text())
    saved["run"] = json.loads(config.to_json())["run"]
    assert json.loads(config.to_json()) == saved
    (study / "3" / "eval.json").unlink()
    assert "3 has no eval.json" in fails(
        capfd, ["report", str(study), f"--output={table}"], status=1
    )


def test_the_seven_of_the_paper_share_their_first_weights(tmp_path, capfd) -> None:
    args = ["sweep", "--config=experiments/ensemble.py", f"--workdir={tmp_path}/x", "--dry_run",
            "--config.data.path=x"]  # fmt: skip
    assert launch.main([*args, "--json"]) == 0
    points = json.loads(capfd.readouterr().out)["points"]
    knobs = [point["overrides"] for point in points]
    assert len(knobs) == 7 and len({k["data.seed"] for k in knobs}) == 7
    assert [k.get("model.width", 1.0) > 1 for k in knobs] == [False] * 6 + [True]
    assert not any("seed" in k for k in knobs) and not (tmp_path / "x").exists()
    assert "config.data.seed is what the sweep varies" in fails(
        capfd, [*args, "--config.data.seed=7"], status=2
    )
    assert "defines no sweep" in fails(
        capfd, ["sweep", "--config=experiments/base.py", f"--workdir={tmp_path}/x"], status=2
    )


@pytest.mark.faults  # tests/launching/test_slurm.py trains a sweep too
def test_a_sweep_trains_every_point_and_names_the_broken(tmp_path) -> None:
    (tmp_path / "pair.py").write_text(
        "from experiments import digits\nget_config = digits.get_config\n"
        "def sweep():\n    yield {'data.seed': 1}\n    yield {'data.seed': 2}\n"
    )
    args = ["sweep", f"--config={tmp_path}/pair.py", f"--workdir={tmp_path}/runs", "--json",
            *tiny.OVERRIDES, "--config.optim.epochs=1."]  # fmt: skip
    done = process(*args)
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    digests = [point["result"]["params_digest"] for point in points]
    assert digests[0] != digests[1]
    assert [pathlib.Path(point["workdir"]).name for point in points] == ["0", "1"]
    assert (
        tmp_path / "runs" / "study.html"
    ).exists() and "[0] data.seed=1: finished" in done.stderr
    (tmp_path / "runs" / "0" / "result.json").unlink()
    (tmp_path / "runs" / "0" / "config.json").write_text("{")
    broken = process(*args)
    assert broken.returncode == 1
    *_, told, last = broken.stderr.strip().splitlines()
    assert "1 of 2 failed" in last and "config.json is damaged" in told


# What goes wrong while it runs


@pytest.mark.faults
def test_ctrl_c_saves_and_the_same_command_goes_on(trained, tmp_path) -> None:
    args = [*train_args(tmp_path / "run", *SMALLER), "--config.run.log_every_steps=1", "--json"]
    interrupted = """
import os, signal, sys
import launch
from inception.cli.main import run_process
from inception.reporting import metrics
write = metrics.Writer.write
def and_interrupt(self, kind, step, **values):
    write(self, kind, step, **values)
    if kind == "train" and step == 1:
        os.kill(os.getpid(), signal.SIGINT)
metrics.Writer.write = and_interrupt
run_process(launch.main, sys.argv[1:])
"""
    child = subprocess.run(
        [sys.executable, "-c", interrupted, *args],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert child.returncode == 75 and not child.stdout and "Traceback" not in child.stderr
    assert "stopped by SIGINT" in child.stderr.strip().splitlines()[-1]
    again = process(*args)
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stderr
    assert json.loads(again.stdout)["params_digest"] == trained[0]["params_digest"]


@pytest.mark.faults
def test_a_full_disk_is_one_line_and_keeps_what_was_saved(tmp_path) -> None:
    """A real one: a file system of 11 MB, in a namespace of its own, soon less than 10."""
    mount = f"mount -t tmpfs -o size=11m tmpfs {tmp_path}"
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*namespace, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let a user mount a file system of its own")
    command = shlex.join([sys.executable, "launch.py", *train_args(tmp_path / "run")])
    full = subprocess.run(
        [*namespace, f"{mount} && {command}; status=$?; ls {tmp_path}/run/checkpoints; exit $status"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert full.returncode == 1, full.stderr
    last = full.stderr.strip().splitlines()[-1]
    assert "saving a checkpoint" in last and "no space" in last and "steps [2" in last
    assert "Traceback" not in full.stderr
    assert "2" in full.stdout.split()


@pytest.mark.faults
def test_a_save_that_fails_half_way_is_no_checkpoint(tmp_path) -> None:
    """Files may not grow above a size, which the state's do."""
    script = f"""
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import launch
sys.exit(launch.main({train_args(tmp_path / "run")!r}))
"""
    failed = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert failed.returncode == 1
    assert "saving a checkpoint" in failed.stderr and "] are kept" in failed.stderr
    assert "File too large" in failed.stderr and "Traceback" not in failed.stderr
    assert process(*train_args(tmp_path / "run")).returncode == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("--config.data.source=folder",), "config.data.path is empty"),
        (("--config.data.source=folder", "--config.data.path=/no/such"), "no such folder"),
        (("--config.data.source=digits", "--config.model.classes=5"), "set has 10 classes: give --config.model.classes=10"),
        (("--config.optim.batch_size=12",), "not divisible by the 8 devices"),
        (("--config.input_px=64", "--config.data.resize_px=64"), "the smallest is 65"),
        (("--config.model.norm=group",), "config.model.norm=group: choose one of lrn, batch, none"),
        (("--config.data.normalization=x",), "config.data.normalization=x: choose one of"),
        (("--config.optim.schedule=x",), "config.optim.schedule=x: choose one of"),
        (("--config.run.eval_batch_size=0",), "config.run.eval_batch_size=0: must be at least 1"),
        (("--config.data.resize=x",), "config.data.resize=x: choose one of short, squash"),
        (("--config.run.workers=0",), "config.run.workers=0: all, or from 1 to 256"),
        (("--config.run.log_every_steps=0",), "config.run.log_every_steps=0: must be at least 1"),
        (("--config.run.keep_checkpoints=0",), "config.run.keep_checkpoints=0: must be at least 1"),
    ],
)  # fmt: skip
def test_impossible_runs_end_in_one_line(tmp_path, capfd, overrides: tuple, message: str) -> None:
    assert message in fails(capfd, train_args(tmp_path / "run", *overrides), status=1)


def test_a_bug_shows_its_traceback(tmp_path, monkeypatch) -> None:
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(train, "load_config", broken)
    with pytest.raises(ZeroDivisionError):
        launch.main(["train", f"--workdir={tmp_path}"])
