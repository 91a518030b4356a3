"""launch.py bench: the keys of its result, and the work that they stand for."""

import json

import pytest

import launch
from inception import bench
from tests import tiny


@pytest.mark.parametrize(("what", "batch_size"), [("train", 16), ("eval", 8), ("input", 6)])
def test_bench(what: str, batch_size: int, capfd: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(bench, "ENOUGH_S", 0.0)
    args = [f"--config={tiny.EXPERIMENT}", *tiny.OVERRIDES, f"--what={what}", "--json"]
    size = [] if what == "train" else [f"--batch_size={batch_size}"]
    assert launch.main(["bench", *args, *size]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["batch_size"] == batch_size and result["device"] == "cpu"
    assert result["seconds_per_step"] > 0 and result["compile_seconds"] > 0
    assert result["p99_seconds"] >= result["seconds_per_step"]
    assert 0 < result["images_per_second"] < 1e6


def test_bench_names_a_batch_that_does_not_fit(capfd: pytest.CaptureFixture) -> None:
    args = [f"--config={tiny.EXPERIMENT}", *tiny.OVERRIDES, "--what=train", "--batch_size=12"]
    assert launch.main(["bench", *args]) == 1
    assert "take 8 or 16" in capfd.readouterr().err
