"""launch.py plan: the numbers of a run before it, beside those of the run."""

import json

import pytest

import launch
from inception.model import GoogLeNet
from inception.tools import bench
from inception.tools.profiler import macs
from tests import tiny

ARGS = ("plan", f"--config={tiny.EXPERIMENT}", *tiny.OVERRIDES)


def plan(capfd: pytest.CaptureFixture, *flags: str) -> dict:
    assert launch.main([*ARGS, *flags, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_a_plan_counts_what_the_run_will_do(capfd: pytest.CaptureFixture) -> None:
    found = plan(capfd, "--images_per_second=10")
    # 32 images in steps of 16 for 3 epochs, and 32 evaluated after each; noise is 256 px wide.
    assert (found["steps"], found["images_seen"], found["images_evaluated"]) == (6, 96, 96)
    assert found["bytes_read"] == (96 + 96) * 256 * 256 * 3
    model = GoogLeNet(**tiny.config().model)
    step, forward = (2 * sum(macs(model, 65, train=train).values()) for train in (True, False))
    assert found["flops"] == 96 * (step + forward)
    assert found["hours"] == pytest.approx((96 + 96 * forward / step) / 10 / 3600)
    assert found["devices"] == 8 and found["memory_bytes"] > 0


@pytest.mark.faults
def test_a_measured_plan_has_the_memory_and_the_rate_of_bench(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "ENOUGH_S", 0.0)
    measured = plan(capfd, "--measure", "--images=1000")
    assert measured["images_per_second"] > 0 and measured["hours"] > 0
    assert measured["memory_bytes"] > 0 and measured["bytes_read"] is None
    assert measured["steps"] == round(3 * 1000 / 16) and measured["images_evaluated"] == 0
    assert launch.main([*ARGS, "--images=1"]) == 1
    assert "makes no step" in capfd.readouterr().err


def test_a_step_has_three_products_for_each_of_the_forward_pass() -> None:
    """But for the gradient of the pixels: from facts about the network, not from its modules."""
    model = GoogLeNet(heads=False)
    step, forward = (sum(macs(model, 224, train=train).values()) for train in (True, False))
    stem = 112 * 112 * 7 * 7 * 3 * 64
    frozen = GoogLeNet(heads=False, frozen_through="5b")
    assert sum(macs(frozen, 224, train=True).values()) == forward + 2 * 1024 * 1000
    assert step == 3 * forward - stem and forward == pytest.approx(1.583e9, rel=1e-3)
