"""Jobs of a real SLURM; .ci/slurm makes this machine a cluster of one node."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from benchmarks import faults
from inception import UserError
from inception.launching import slurm
from tests import tiny

here = pytest.mark.skipif(
    not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True).returncode != 0,
    reason="no SLURM on this machine: .ci/slurm starts one",
)
STEPS = 64
ENVIRONMENT = {
    **os.environ,
    "XLA_FLAGS": "--xla_force_host_platform_device_count=1 " + faults.compile_fast(),
}


def launch(*arguments: str, status: int = 0) -> tuple[dict, str]:
    """(result, stderr) of a command of launch.py."""
    done = subprocess.run(
        [*faults.LAUNCH, *arguments, "--json"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if not status else {}, done.stderr


@here
@pytest.mark.slow
def test_a_job_of_two_tasks_is_preempted_and_goes_on(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    result, said = launch(
        *faults.TRAIN, f"--workdir={run}", "--on=slurm", "--partition=main", "--tasks_per_node=2",
        "--time=00:20:00", f"--config.optim.epochs={STEPS / 4}", "--config.run.eval_every_epochs=8.",
    )  # fmt: skip
    (job,) = result["jobs"]
    assert f"cancel: scancel {job}" in said and f"{run}/slurm" in said
    log = pathlib.Path(slurm.log(f"{run}/slurm", job))
    until = time.monotonic() + 1800

    def wait_for(fact) -> None:
        while not fact():
            assert time.monotonic() < until and slurm.states([job]), log.read_text()[-2000:]
            time.sleep(0.2)

    wait_for(lambda: len(faults.rows(run, "train")) >= 4)
    subprocess.run(
        ["sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=true"],
        check=True, capture_output=True,
    )  # fmt: skip
    wait_for(lambda: "resumes from there" in log.read_text())
    wait_for(lambda: slurm.states([job]) == {job: "waiting"})
    # SLURM waits two minutes: a node kills a job whose new credential is as old as the revoked one, in
    # whole seconds.
    time.sleep(5)
    subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], check=True)
    while slurm.states([job]):
        assert time.monotonic() < until, log.read_text()[-2000:]
        time.sleep(0.2)
    assert json.loads((run / "result.json").read_text())["steps"] == STEPS
    assert [r["step"] for r in faults.rows(run, "train")] == list(range(1, STEPS + 1))
    assert [r["devices"] for r in faults.rows(run, "start")] == ["2 x cpu"] * 2


@here
@pytest.mark.faults
def test_a_sweep_is_a_job_array_and_its_points_are_the_same_here(tmp_path: pathlib.Path) -> None:
    experiment = tmp_path / "pair.py"
    experiment.write_text(
        "from experiments.digits import get_config\n"
        "def sweep():\n    return [{'data.seed': 1}, {'data.seed': 2}]\n"
    )
    knobs = [a for a in faults.TRAIN if a.startswith("--config.")]
    sweep = ("sweep", f"--config={experiment}", *knobs, "--config.optim.epochs=1.")
    result, said = launch(*sweep, f"--workdir={tmp_path}/runs", "--on=slurm")
    digests = [point["result"]["params_digest"] for point in result["points"]]
    first, second = ((tmp_path / "runs" / n / "job").read_text() for n in "01")
    array = first.split("_")[0]
    assert (first, second) == (f"{array}_0\n", f"{array}_1\n")
    assert f"cancel: scancel {array}" in said
    again, said = launch(*sweep, f"--workdir={tmp_path}/runs", "--on=slurm")
    assert "submitted" not in said
    assert [point["result"]["params_digest"] for point in again["points"]] == digests
    one_core_each = f"--workers={len(os.sched_getaffinity(0))}"
    here, _ = launch(*sweep, f"--workdir={tmp_path}/here", one_core_each)
    assert [point["result"]["params_digest"] for point in here["points"]] == digests
    assert digests[0] != digests[1]


@here
def test_a_partition_that_is_not_there(tmp_path: pathlib.Path) -> None:
    _, said = launch(
        *faults.TRAIN, f"--workdir={tmp_path}", "--on=slurm", "--partition=nope", status=1
    )
    assert said == "launch.py train: --partition=nope: this cluster has main, urgent\n"


def test_no_slurm_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    with tiny.refused("no sbatch on this machine: use the cluster's login"):
        slurm.resources()


@pytest.mark.parametrize("busy", [2, slurm.TRIES])
def test_squeue_that_fails_is_repeated(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys, busy: int
) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "squeue").write_text(
        f"#!/bin/sh\necho >> {calls}\n"
        f'[ $(wc -l < {calls}) -gt {busy} ] && echo "7 7_N/A RUNNING" && exit\n'
        "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(slurm, "RETRY_S", 0)
    if busy < slurm.TRIES:
        assert slurm.states(["7"]) == {"7": "running"}
    else:
        with pytest.raises(UserError, match="squeue: slurm_load_jobs error: Unable to contact"):
            slurm.states(["7"])
    assert capsys.readouterr().err.count("asking again") == 1


def test_a_profile_of_the_cluster(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('partition = "gpu"\ngpus_per_node = 8\n[sbatch]\nqos = "high"\n')
    assert slurm.read_profile(str(file)) == {
        "partition": "gpu", "gpus_per_node": 8, "sbatch": {"qos": "high"},
    }  # fmt: skip
    file.write_text("gpus = 8\n")
    with pytest.raises(UserError, match=r"cluster\.toml: gpus is none of partition, account"):
        slurm.read_profile(str(file))
    file.write_text("gpus 8\n")
    with pytest.raises(UserError, match=r"cluster\.toml cannot be read"):
        slurm.read_profile(str(file))
