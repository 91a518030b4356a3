"""launch.py bench: the keys of its result, and the work that they stand for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch
from inception.tools import bench, profiler
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")


@pytest.mark.parametrize(
    ("what", "batch_size"),
    [("train", 16), pytest.param("eval", 8, marks=pytest.mark.faults), ("input", 6)],
)
@pytest.mark.slow
def test_bench(what: str, batch_size: int, capfd: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(bench, "ENOUGH_S", 0.0)
    args = [f"--config={tiny.EXPERIMENT}", *tiny.OVERRIDES, "--config.model.norm=lrn"]
    args += [f"--what={what}", "--json"]
    size = [] if what == "train" else [f"--batch_size={batch_size}"]
    profile = [] if what == "input" else ["--profile"]
    assert launch.main(["bench", *args, *size, *profile]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert result["batch_size"] == batch_size and result["device"] == "cpu"
    assert result["seconds_per_step"] > 0 and result["compile_seconds"] > 0
    assert result["p99_seconds"] >= result["seconds_per_step"]
    assert 0 < result["images_per_second"] < 1e6
    if not profile:
        return
    rows = {row["name"]: row for row in result["profile"]["rows"]}
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    assert {"conv1", "pool1", "lrn1", "3a/3x3", "3a", "5b/pool_proj", "classifier"} <= rows.keys()
    assert all(row["seconds"] > 0 and row["bytes"] > 0 for row in rows.values())
    # Of conv1 by hand: 7x7x3 on a grid of half the side, 64 * .05 filters, a multiplication and
    # an addition; in training the same again for the gradient of the kernel.
    sides = (tiny.config().input_px + 1) // 2
    assert rows["conv1"]["flops"] == batch_size * 2 * sides**2 * 147 * 3 * (1 + (what == "train"))
    assert ("head_4a/conv" in rows) == (what == "train")
    assert "bound" in err and "3a/3x3" in err


def test_a_profile_of_the_input_is_refused(capfd: pytest.CaptureFixture) -> None:
    args = [f"--config={tiny.EXPERIMENT}", *tiny.OVERRIDES, "--what=input", "--profile"]
    assert launch.main(["bench", *args]) == 1
    assert "has no layers" in capfd.readouterr().err


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=20))
def test_operations_at_once_share_the_time(spans: list[tuple[int, int]]) -> None:
    parts = profiler._parts([(begin, begin + length) for begin, length in spans])
    busy = {moment for begin, length in spans for moment in range(begin, begin + length)}
    assert sum(parts) == pytest.approx(len(busy))
    assert all(0 < part <= length + 1e-9 for part, (_, length) in zip(parts, spans, strict=True))


def test_bench_names_a_batch_that_does_not_fit(capfd: pytest.CaptureFixture) -> None:
    args = [f"--config={tiny.EXPERIMENT}", *tiny.OVERRIDES, "--what=train", "--batch_size=12"]
    assert launch.main(["bench", *args]) == 1
    assert "take 8 or 16" in capfd.readouterr().err


def test_layers_computed_as_one_count_for_their_module() -> None:
    work = profiler.by_row({"3a/1x1": 2, "3a/3x3_reduce": 3, "3a/3x3": 5}, {"3a", "3a/3x3"})
    assert work == {"3a": 5, "3a/3x3": 5}
