"""The launcher of several processes on one machine."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import faults
from inception.launching import local

CHILD = """
import os, pathlib, signal, sys, time
again, killed = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
if again.exists():
    sys.exit(0)
if sys.argv[-1] == "--process_id=1":
    killed.with_suffix(".new").write_text(str(os.getpid()))
    killed.with_suffix(".new").rename(killed)
    os.kill(os.getpid(), signal.SIGKILL)
while not killed.exists():
    time.sleep(0.05)
try:
    while True:  # until the launcher has seen that end
        os.kill(int(killed.read_text()), 0)
        time.sleep(0.05)
except ProcessLookupError:
    again.touch()
print("saving failed: Connection reset by peer", file=sys.stderr)
sys.exit(1)
"""


def test_a_killed_process_is_the_cause_of_what_the_others_say(
    tmp_path: pathlib.Path, capfd
) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path / "again"), str(tmp_path / "killed")]
    assert local.run(command, processes=2, restarts=1) == 0
    assert (
        "process 1 was killed by SIGKILL: starting again (1 restarts left)"
        in capfd.readouterr().err
    )


@pytest.mark.faults
def test_one_of_two_killed_and_both_started_again(
    tmp_path: pathlib.Path,
) -> None:
    """By the launcher itself, which the kill reaches through its child."""
    digest, _ = faults.Harness(tmp_path).unbroken(2)
    workdir = tmp_path / "run"
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 " + faults.compile_fast(),
    }
    launcher = subprocess.Popen(
        [*faults.LAUNCH, *faults.TRAIN, f"--workdir={workdir}", "--processes=2", "--restarts=1", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    while max((r["step"] for r in faults.rows(workdir, "train")), default=0) < 1:
        assert launcher.poll() is None, launcher.stderr.read()
        time.sleep(0.05)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    out, err = launcher.communicate(timeout=900)
    assert launcher.returncode == 0, err
    assert "process 1 was killed by SIGKILL: starting again" in err
    assert json.loads(out.splitlines()[-1])["params_digest"] == digest
