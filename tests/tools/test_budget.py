"""Runs of some minutes: their epochs follow from the speed of a step, once."""

import json
import pathlib

import pytest

import launch
from inception.reporting import metrics
from inception.tools import bench
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")
SMALL = [flag for flag in tiny.OVERRIDES if "epochs" not in flag]
ARGS = (
    "train", f"--config={tiny.EXPERIMENT}", *SMALL, "--config.model.heads=false",
    "--config.input_px=33", "--config.data.resize_px=33", "--json",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_of_some_minutes_evaluates_along_it_and_repeats_its_result(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.setattr(bench, "ENOUGH_S", 0.0)
    speeds = []

    def measured(*args, measure=bench.run, **choices) -> dict:
        speeds.append(measure(*args, **choices) | {"seconds_per_step": 0.5})
        return speeds[-1]

    monkeypatch.setattr(bench, "run", measured)
    args = [*ARGS, f"--workdir={tmp_path}/run", "--minutes=0.15"]
    for start in range(2):
        assert launch.main(args) == 0
        out, err = capfd.readouterr()
        assert json.loads(out)["steps"] == 18  # of half a second each, two an epoch
        said = ("18 steps of 0.50 s, 9.00 epochs", "it keeps its 9 epochs")[start]
        assert said in err
    rows = metrics.read_metrics(f"{tmp_path}/run")
    evaluations = [row["step"] for row in rows if row["kind"] == "eval"]
    assert len(speeds) == 1 and speeds[0]["what"] == "train"
    assert len(evaluations) == 9 and evaluations[0] == 2 and evaluations[-1] == 18
    assert json.loads((tmp_path / "run/config.json").read_text())["optim"]["epochs"] == 9.0


def test_too_few_minutes_are_refused_before_the_run(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.setattr(bench, "run", lambda *_, **__: {"seconds_per_step": 3.0})
    assert launch.main([*ARGS, f"--workdir={tmp_path}/run", "--minutes=0.3"]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line == (
        "launch.py train: --minutes=0.3 is enough for 6 steps of 3.00 s: with its warm-up this run "
        "needs at least 0.4"
    )
    warm = "--config.optim.warmup_steps=5"  # of six in three epochs
    own = [warm, "--config.optim.warmup_epochs=0", f"--workdir={tmp_path}/run"]
    assert launch.main([*ARGS, *own, "--minutes=0.2"]) == 1
    assert "enough for 4 steps" in capfd.readouterr().err
    assert launch.main([*ARGS, *own, "--minutes=1", "--config.run.eval_every_epochs=1"]) == 2
    assert "--minutes sets --config.run.eval_every_epochs" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_several_sizes_count_by_their_shares(monkeypatch) -> None:
    seconds = {96: [1.0, 1.0, 1.0, 5.0], 128: [4.0]}
    monkeypatch.setattr(
        bench, "_timed", lambda *args, **_: bench.Timed(seconds[args[3]], 1.0, args[3], {})
    )
    sizes = ("--config.input_px=128", "--config.data.resize_px=128", "--config.model.heads=false")
    result = bench.run(tiny.config(*sizes, "--config.train.sizes=(96,96,0)"), what="train")
    assert result["seconds_per_step"] == 2.0 and result["p99_seconds"] > 4.8
    assert result["images_per_second"] == 16 / ((2 + 2 + 4) / 3)
    assert result["compile_seconds"] == 2.0 and result["memory_bytes"] == 128
    assert bench.run(tiny.config(*sizes), what="train")["seconds_per_step"] == 4.0
    with tiny.refused("profile is of one size"):
        bench.run(tiny.config(*sizes, "--config.train.sizes=(96,0)"), what="train", profile=True)
