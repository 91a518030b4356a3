"""launch.py plan: the numbers of a run before it, beside those of the run."""

import importlib.metadata
import json
import pathlib
import re

import jax
import pytest

import launch
from inception.model import GoogLeNet
from inception.tools import bench, topology
from inception.tools import plan as plan_module
from inception.tools.profiler import macs
from tests import tiny

ARGS = ("plan", f"--config={tiny.EXPERIMENT}", *tiny.OVERRIDES)


def plan(capfd: pytest.CaptureFixture, *flags: str) -> dict:
    assert launch.main([*ARGS, *flags, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.slow
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


def test_sizes_and_teachers_count(tmp_path: pathlib.Path) -> None:
    small = ("--config.model.heads=false", "--config.train.sizes=(33,0)")
    teacher = tiny.write_run(tmp_path / "teacher", tiny.config("--config.model.heads=false"))
    config = tiny.config(*small, f"--config.distill.teacher={teacher}")
    model = GoogLeNet(**config.model)
    of = {(px, t): 2 * sum(macs(model, px, train=t).values()) for px in (33, 65) for t in (0, 1)}
    found = plan_module._flops(config)
    assert found["train"] == sum(of.values()) / 2 and found["eval"] == of[65, 0]
    assert of[65, 1] > 3 * of[33, 1]


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


# On devices that are not here

SMALL = ("--topology=h100", "--what=eval", "--config.run.eval_batch_size=6")
TOO_LARGE = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm."


def has(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


compiles = pytest.mark.skipif(not has("jax-cuda13-plugin"), reason="without the extra compile")


def refused(capfd: pytest.CaptureFixture, *flags: str, status: int = 1) -> str:
    assert launch.main([*ARGS, *flags]) == status
    (line,) = capfd.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "name", ["h100:9", "h100:0", "h100:", "v5e", "v5e:3x3", "v5p:2x2", "h1000"]
)
def test_a_topology_that_does_not_exist(name: str, capfd: pytest.CaptureFixture) -> None:
    line = refused(capfd, f"--topology={name}")
    assert f"--topology={name}: unknown; choose from a100|h100" in line
    assert "v5e:1x1|2x2" in line


def test_a_compiler_that_is_missing_or_of_another_version(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for name, package in (("h100", "jax-cuda13-plugin"), ("v5e:2x2", "libtpu")):
        line = refused(capfd, f"--topology={name}")
        assert f"--topology needs {package}, which is not installed: pip install" in line
        assert "'.[compile]'" in line
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.0.1")
    line = refused(capfd, "--topology=v5e:2x2")
    assert "libtpu is 0.0.1, and jax" in line and "pip install" in line


def test_flags_that_go_with_a_topology(capfd: pytest.CaptureFixture) -> None:
    for flag in ("--hlo=x", "--output=x.html", "--what=eval"):
        assert f"{flag.split('x')[0].rstrip('=')}" in refused(capfd, flag, status=2)
    with pytest.raises(SystemExit):
        launch.main([*ARGS, "--topology=h100", "--measure"])


def test_files_of_a_plan_are_two_and_replace_no_others(tmp_path, capfd) -> None:
    flags = [
        "--topology=h100:8",
        f"--hlo={tmp_path}/x",
        f"--output={tmp_path}/../{tmp_path.name}/x",
    ]
    assert "--hlo and --output are both" in refused(capfd, *flags)
    (tmp_path / "x").write_text("a letter")
    assert "a file of another kind exists" in refused(capfd, *flags[:2])
    assert (tmp_path / "x").read_text() == "a letter"


def test_a_program_that_a_tpu_has_no_room_for(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its compiler ends with an error; a plan says what it can."""
    here = topology.Topology("v5e:2x4", [], topology.TPUS["v5e"], 0.0)

    def compile_step(*_, **__):
        raise RuntimeError(TOO_LARGE)

    monkeypatch.setattr(topology, "described", lambda _: here)
    monkeypatch.setattr(bench, "compile_step", compile_step)
    assert launch.main([*ARGS, "--topology=v5e:2x4", "--json"]) == 1
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert not result["fits"] and result["devices"] == 8 and result["batch_per_device"] == 2
    assert result["memory_bytes"] is None and result["collectives"] == []
    last = err.splitlines()[-1]
    assert "needs 22.0 GB, 5.1 GB more than a device has" in last and "config.model.remat" in last


@pytest.mark.slow
def test_a_plan_for_these_devices(tmp_path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command, compiled for the tests' own eight devices as if they were a machine's."""
    chip = topology.GPUS["h100"]._replace(memory_bytes=10**5)
    here = topology.Topology("h100:8", jax.devices(), chip, 1e-5)
    monkeypatch.setattr(topology, "described", lambda _: here)
    files = [f"--hlo={tmp_path}/program.txt", f"--output={tmp_path}/page.html"]
    args = [*ARGS, "--topology=h100:8", "--images=3200", *files, "--json"]
    assert launch.main(args) == 1
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert found["batch_size"] == 16 and found["batch_per_device"] == 2 and found["devices"] == 8
    assert found["flops"] > 0 and found["moved_bytes"] > 0 and found["kernels"] > 100
    assert {row["kind"] for row in found["collectives"]} == {"all-reduce"}
    rate = found["images_per_second"]
    assert rate == pytest.approx(16 / found["estimated_seconds"])
    assert found["hours"] == pytest.approx(3 * 3200 / rate / 3600)
    assert found["epochs_a_day"] == pytest.approx(24 * 3 / found["hours"])
    layers = {row["name"] for row in found["layers"]}
    assert {"conv1", "pool1", "3a", "5b", "classifier", "optimizer", "input"} <= layers
    operations = {row["name"] for row in found["operations"]}
    assert {"convolution", "pool", "concatenation", "collective"} <= operations
    assert not found["fits"] and "more than a device has" in err.splitlines()[-1]
    assert (tmp_path / "program.txt").read_text().startswith("HloModule")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2 and "Layer by layer" in page and "all-reduce" in page


@compiles
def test_a_plan_for_an_h100(capfd: pytest.CaptureFixture) -> None:
    found = plan(capfd, *SMALL)
    assert (found["devices"], found["batch_size"], found["fits"]) == (1, 6, True)
    convolutions = [row for row in found["operations"] if row["name"] == "convolution"]
    model = GoogLeNet(**tiny.config().model)
    products = 2 * 6 * sum(macs(model, 65, train=False).values())
    assert 0.8 * products < found["flops"] < products  # macs counts what falls on padding
    assert convolutions[0]["kernels"] == 57 and found["collectives"] == []
    assert found["memory_bytes"] > found["temporary_bytes"] > 0
    assert "TFLOP/s" in found["model"]


def test_the_extra_has_the_versions_of_the_pinned_jax() -> None:
    root = pathlib.Path(__file__).parents[2]
    (pinned,) = re.findall(r"^jax==(\S+)", (root / "requirements.txt").read_text(), re.MULTILINE)
    if jax.__version__ != pinned:
        pytest.skip("another jax than the pinned one is installed")
    project = (root / "pyproject.toml").read_text()
    for name in ("pjrt", "plugin"):
        assert f'"jax-cuda13-{name}=={pinned}; ' in project
    assert f'"libtpu=={topology._libtpu_of_jax().rstrip("*")}' in project
