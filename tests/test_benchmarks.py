"""What benchmarks/step_sides.py times beside PyTorch's is the network that PyTorch computed; gpu.py."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import accelerators, gpu, step_sides
from tests import record_plain_torch as recorded
from tests.tools import test_program


@pytest.mark.slow
def test_plain_v1_computes_what_pytorch_computed() -> None:
    """Logits, loss, gradients and multiply-adds of tests/recorded/plain.json, made by torch."""
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",), axis_types=auto)
    got = recorded.shown(step_sides.Ours(*recorded.WORK, dropout=False, mesh=mesh).computed())
    expected = json.loads(recorded.RECORDED.read_text())
    assert got.keys() == expected.keys() and got["macs"] == expected["macs"]
    for name, values in expected.items():
        scale = np.abs(values).max()
        tolerance = 1e-3 if "logits" in name or name == "loss" else 1e-2
        np.testing.assert_allclose(got[name], values, atol=tolerance * scale, rtol=0, err_msg=name)


def test_a_step_on_a_gpu_ends_in_time_and_is_reported(tmp_path: pathlib.Path) -> None:
    steps: dict[str, Any] = {}
    gpu.run_step("correctness", 0.0, True, steps, tmp_path)
    assert steps["correctness"]["failed"].startswith("cut off after")
    assert "**Failed**: cut off" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["step.py"], r"needs torch, torchvision: pip install -c .* -e '\.\[benchmarks\]'"),
        (["step.py", "--sides=ours,eager"], r"needs torch: pip install"),
        (["step.py", "--sides=ours,x"], r"--sides: x: choose from ours, eager"),
        (["accelerators.py"], r"needs .*libtpu: pip install -c .* -e '\.\[compile\]'"),
        (["accelerators.py", "--only=x"], r"--only: there is no x"),
        (["input.py", "tests/recorded"], r"tests/recorded: no JPEG in it"),
        (["faults.py", "x"], r"x: choose from "),
        (["scaling.py", "size", "--output=Makefile"], r"Makefile.* cannot be written"),
    ],
)
def test_a_benchmark_says_what_it_lacks_before_it_measures(flags: list[str], line: str) -> None:
    for package in re.findall(r"torch(?:vision)?|libtpu", line):
        if importlib.util.find_spec(package):
            pytest.skip(f"{package} is here")
    done = subprocess.run(
        [sys.executable, f"benchmarks/{flags[0]}", *flags[1:]],
        cwd=gpu.ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode in (1, 2) and not done.stdout
    assert re.search(line, done.stderr.splitlines()[-1])


def test_files_of_others_are_no_report_of_a_gpu(tmp_path: pathlib.Path, monkeypatch) -> None:
    (tmp_path / "gpu.log").write_text("a letter")
    monkeypatch.setattr(sys, "argv", ["gpu.py", f"--output={tmp_path}"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert (tmp_path / "gpu.log").read_text() == "a letter"


def test_packed_wheels_are_of_the_pinned_set() -> None:
    pins = (gpu.ROOT / "requirements.txt").read_text().splitlines()
    assert set(gpu.PACKED) <= {line.split("==")[0] for line in pins}


@pytest.mark.faults
def test_what_is_checked_on_a_gpu_is_checked_on_a_cpu(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--small", f"--output={tmp_path}"]
    run = subprocess.run([*command, "--steps=environment,correctness"], cwd=gpu.ROOT)
    steps = json.loads((tmp_path / "gpu.json").read_text())
    assert run.returncode == 0, steps
    assert [len(step["tables"]) for step in steps.values()] == [1, 3]


def test_the_table_of_two_checkouts() -> None:
    row = accelerators.ROWS["8_h100_train"]
    found = {"temporary": 2e9, "accessed": None}
    own = accelerators.quantities(row, test_program.GPU, found)
    assert (own["instructions"], own["convolutions of cuDNN"], own["all-reduce f32"]) == (9, 3, 1)
    lines = accelerators.compare("x", own, own | {"temporary memory, GB": 4.0})
    assert ["x", "temporary memory, GB", 2.0, 4.0, 0.5] in lines
    assert accelerators.compare("x", own, {})[1] == ["x", "temporary memory, GB", 2.0]
