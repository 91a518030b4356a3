"""Runs of several real processes: the same numbers, stopped, killed and in disagreement."""

import json
import os
import pathlib
import queue
import re
import subprocess
import sys
import threading
import types
from concurrent import futures

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import faults
from inception import UserError
from inception.runtime import prefetch, processes, sharding
from inception.runtime.workdir import locked
from tests import tiny


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> faults.Harness:
    return faults.Harness(tmp_path_factory.mktemp("faults"))


@pytest.mark.faults
def test_processes_may_change_at_every_resume(harness: faults.Harness) -> None:
    """2 -> 1, by a SIGTERM to one process; benchmarks/faults.py has more."""
    assert "evaluations not at all" in harness.topology(chain=(2,))


@pytest.mark.faults
def test_the_same_run_on_any_mesh(harness: faults.Harness) -> None:
    """1 x 1 processes x devices, 1 x 8, 2 x 4 and 4 x 2."""
    assert "evaluations not at all" in harness.meshes()


@pytest.mark.faults
def test_two_processes_evaluate_and_predict_as_one(harness: faults.Harness) -> None:
    assert harness.commands() == "the same"


def fails(processes_flags: list[list[str]]) -> list[str]:
    """Starts processes that are to end with status 1; returns what each said."""
    with faults.socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"--coordinator_address=localhost:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [*faults.LAUNCH, *faults.TRAIN, address, f"--process_id={i}", *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for i, flags in enumerate(processes_flags)
        if flags
    ]  # fmt: skip
    said = [process.communicate(timeout=900)[1] for process in started]
    assert any(process.returncode == 1 for process in started), said
    assert all(process.returncode for process in started), said
    assert not any("Traceback" in s for s in said), said
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            ["--num_processes=2", "--config.seed=1"],
            r"config\.seed is 1 at process 1 on \S+ and 0 at process 0: all processes",
        ),
        (["--num_processes=3"], r"--num_processes=3 at process 1, and the coordinator counts 2"),
    ],
)
def test_processes_that_disagree(tmp_path: pathlib.Path, other: list[str], message: str) -> None:
    run = f"--workdir={tmp_path / 'run'}"
    said = fails([["--num_processes=2", run], [*other, run]])
    assert any(re.search(message, s) for s in said), said
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_a_workdir_that_is_not_shared(tmp_path: pathlib.Path) -> None:
    both = ["--num_processes=2"]
    said = fails([[*both, f"--workdir={tmp_path / 'a'}"], [*both, f"--workdir={tmp_path / 'b'}"]])
    assert any("is not the folder of process 0: all hosts" in s for s in said), said


@pytest.mark.slow
def test_a_coordinator_that_is_not_there(tmp_path: pathlib.Path) -> None:
    flags = ["--num_processes=2", "--initialization_timeout=3", f"--workdir={tmp_path / 'run'}"]
    (said,) = fails([[], flags])
    assert re.search(r"did not answer at localhost:\d+ within 3 s, or waits for others", said)


@pytest.mark.parametrize(
    "flags",
    [
        {"num_processes": 2},
        {"coordinator_address": "x:1", "num_processes": 2, "process_id": 2},
        {"coordinator_address": "x", "num_processes": 2, "process_id": 1},
        {"coordinator_address": "x:y", "num_processes": 2, "process_id": 1},
        {"coordinator_address": "x:1", "num_processes": 2, "process_id": 1, "timeout_s": 0},
    ],
)
def test_an_impossible_combination_of_flags(flags: dict) -> None:
    message = r"--num_processes|must be HOST:PORT|must be at least 1"
    names = ("coordinator_address", "num_processes", "process_id", "initialization_timeout")
    with tiny.refused(message, *names):
        processes.initialize(**flags)


@pytest.mark.parametrize("several", [False, True])
def test_a_cluster_that_cannot_be_asked_leaves_one_process_alone(
    tmp_path: pathlib.Path, several: bool
) -> None:
    """A notebook's pod of Kubernetes has no token, and that package raises what it likes."""
    (tmp_path / "kubernetes.py").write_text("""
class config:
    def load_incluster_config():
        raise type("ConfigException", (Exception,), {})("Service token file does not exist.")
""")
    begin = (
        "from inception.runtime import processes; processes.initialize(timeout_s=9); print('on')"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:.", "KUBERNETES_SERVICE_HOST": "x"}
    environment |= {"JOB_COMPLETION_INDEX": "0"} if several else {}
    ended = subprocess.run(
        [sys.executable, "-c", begin], env=environment, capture_output=True, text=True, check=False
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert "ConfigException: Service token file does not exist." in last
    if several:
        assert ended.returncode == 1 and "the processes cannot be joined" in last
    else:
        assert ended.stdout == "on\n" and "continues alone; with others give --coord" in last


def test_a_signal_ends_the_wait_for_the_others(tmp_path: pathlib.Path) -> None:
    with faults.socket.create_server(("localhost", 0)) as silent:
        silent.settimeout(900)
        alone = subprocess.Popen(
            [*faults.LAUNCH, *faults.TRAIN, f"--workdir={tmp_path}", "--num_processes=2",
             "--process_id=1", f"--coordinator_address=localhost:{silent.getsockname()[1]}"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        silent.accept()  # it has begun to wait
        alone.terminate()
        assert "stopped by SIGTERM" in alone.communicate(timeout=250)[1]  # before it gives up
    assert alone.returncode == 75


def test_code_and_flags_must_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(name: str, value: str):
        def gather(text: str) -> list[str]:
            host, mine = json.loads(text)
            assert name in mine
            return [text, json.dumps([host, {**mine, name: value}])]

        return gather

    for name in ("launch.py", "inception/data/pipeline.py", "jax", "`crops`"):
        monkeypatch.setattr(processes, "gather_text", other(name, "odd"))
        flag = name.replace("`crops`", "--crops")
        with tiny.refused(f"{flag} is odd at process 1 on", "crops"):
            processes.check_same({"seed": 0}, crops=[1])


@pytest.mark.faults
def test_a_damaged_image_of_evaluation_ends_both_processes(tmp_path: pathlib.Path) -> None:
    for split in ("train", "val"):
        for name in "ab":
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(16):
                noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(noise).save(folder / f"{i:02}.png")
    (tmp_path / "set" / "val" / "b" / "15.png").write_bytes(b"")
    knobs = ("--config.data.source=folder", f"--config.data.path={tmp_path / 'set'}",
             "--config.data.eval_split=val", "--config.model.classes=2")  # fmt: skip
    train = (*faults.TRAIN, *knobs, f"--workdir={tmp_path / 'run'}")
    run = faults.Run(tmp_path / "run", 2, command=train)
    assert sorted(run.wait()) != [0, 0]
    assert "15.png: an empty file" in run.err(0) + run.err(1)


def test_a_second_run_on_the_workdir_is_refused(tmp_path: pathlib.Path) -> None:
    config, workdir = json.loads(tiny.config().to_json()), str(tmp_path)
    refused = pytest.raises(UserError, match=rf"in use by process {os.getpid()} on \S+: wait")
    with locked(config, workdir), refused, locked(config, workdir):
        pass
    with locked(config, workdir):  # the first has let go of it
        pass


def test_a_lock_dies_with_its_process(tmp_path: pathlib.Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys, time; f = open(sys.argv[1], 'a');"
         "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(60)", tmp_path / "lock"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()
    config = json.loads(tiny.config().to_json())
    with pytest.raises(UserError, match="is in use"), locked(config, str(tmp_path)):
        pass
    holder.kill()
    holder.wait()
    with locked(config, str(tmp_path)):
        pass


def test_what_blocks_is_left_as_soon_as_the_poll_says_so() -> None:
    release = threading.Event()

    def poll(seconds: float) -> None:
        if seconds > 0.1:
            raise processes.Stopped("a test")

    for block in (
        lambda: prefetch.run_in_thread(release.wait, poll),
        lambda: next(prefetch.Prefetcher(iter(release.wait, None), lambda x: x, poll=poll)),
    ):
        with pytest.raises(processes.Stopped):  # while it blocks still
            block()
    release.set()


def test_reading_ahead_keeps_order_errors_and_the_end() -> None:
    """And reads nothing after an error, which comes again."""

    def items():
        for i in range(9):
            read.append(i)
            yield i

    def put(i: int) -> int:
        if i == 3:
            raise UserError("a damaged one")
        return 10 * i

    read: list[int] = []
    with prefetch.Prefetcher(items(), put) as prefetched:
        assert [next(prefetched) for _ in range(3)] == [0, 10, 20]
        for _ in range(3):
            with pytest.raises(UserError, match="a damaged one"):
                next(prefetched)
    assert read == [0, 1, 2, 3]
    with prefetch.Prefetcher(range(5), lambda i: i) as prefetched:
        assert list(prefetched) == list(range(5))


@pytest.mark.parametrize(
    ("there_at", "busy_until", "starved"),
    [(0.4, 0.0, 0.4), (0.4, 9.0, 0.0), (0.042, 0.04, 0.002)],
    ids=["no device is busy", "all are busy", "a short step ends before"],
)
def test_time_without_a_batch_counts_where_no_device_is_busy(
    monkeypatch: pytest.MonkeyPatch, there_at: float, busy_until: float, starved: float
) -> None:
    """By a clock that goes on while it waits alone."""
    clock, batches = [0.0], queue.Queue()

    def wait(items: list, seconds: float):
        clock[0] = min(clock[0] + seconds, there_at)
        if clock[0] == there_at:
            batches.put(1)
        return futures.wait(items, None if clock[0] == there_at else 0)

    monkeypatch.setattr(prefetch, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    named = types.SimpleNamespace(wait=wait, Future=futures.Future)
    monkeypatch.setattr(prefetch, "futures", named)
    busy = lambda: clock[0] < busy_until  # noqa: E731
    with prefetch.Prefetcher(iter(batches.get, None), lambda x: x, busy=busy) as prefetched:
        next(prefetched)
        assert prefetched.starved == pytest.approx(starved, abs=1e-3)
    batches.put(None)


def test_rows_lie_in_the_order_of_the_devices() -> None:
    mesh = sharding.make_mesh()
    rows = sharding.shard_batch({"image": np.arange(16)}, mesh)["image"]
    shards = sorted(rows.addressable_shards, key=lambda s: s.device.id)
    assert [list(s.data) for s in shards] == [[2 * i, 2 * i + 1] for i in range(8)]
    assert jax.process_count() == 1
