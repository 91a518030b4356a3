"""Do runs that are killed, stopped, moved or damaged end like an unbroken run?

    python benchmarks/faults.py [SCENARIO ...]

Trains a small network as real processes of `launch.py`, breaks the runs in every way that
docs/notes/how-to.md lists, and prints that page's table. If a line does not hold, the exit status
is 1. tests/runtime/test_processes.py runs some scenarios.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
# 24 steps of 16 images, a save every 3 and an evaluation every 8.
TRAIN = (
    "train",
    f"--config={ROOT}/experiments/digits.py",
    "--config.input_px=32",
    "--config.model.heads=False",
    "--config.model.width=0.05",
    "--config.model.norm=lrn",
    "--config.model.classes=3",
    "--config.data.source=synthetic",
    "--config.data.examples=64",
    "--config.optim.batch_size=16",
    "--config.optim.epochs=6.",
    "--config.optim.polyak_decay=0.",
    "--config.optim.learning_rate=0.002",
    "--config.run.eval_batch_size=32",
    "--config.run.log_every_steps=1",
    "--config.run.eval_every_epochs=2.",
    "--config.run.checkpoint_every_epochs=0.75",
    "--config.run.workers=2",
)
STEPS = 24
START_S = 6.0  # about the time to the first step with a compiled program
DEVICES = 8  # of all processes together


LAUNCH = (sys.executable, str(ROOT / "launch.py"))


def compile_fast() -> str:
    """XLA_FLAGS for fast compilation instead of fast code, if this jaxlib knows them.

    An unknown flag makes XLA end the process, so another process tries it. The environment keeps
    the answer for child processes.
    """
    if "COMPILE_FAST" not in os.environ:
        flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
        dropped_by_jax_0_11 = "--xla_cpu_use_fusion_emitters=false"
        environment = {**os.environ, "XLA_FLAGS": dropped_by_jax_0_11, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        asked = subprocess.run(command, env=environment, capture_output=True, check=False)
        flags += [dropped_by_jax_0_11] if asked.returncode == 0 else []
        os.environ["COMPILE_FAST"] = " ".join(flags)
    return os.environ["COMPILE_FAST"]


class Broken(AssertionError):
    """A scenario's promise does not hold."""


def hold(fact: bool, text: str) -> None:
    """Raises Broken unless `fact` holds."""
    if not fact:
        raise Broken(text)


class Run:
    """The processes of one start of a run; stdout and stderr go to files beside its workdir."""

    def __init__(
        self,
        workdir: pathlib.Path,
        processes: int = 1,
        *,
        devices: int = DEVICES,
        command: Sequence[str] = (),
    ):
        flags_of_xla = (
            f"--xla_force_host_platform_device_count={devices // processes} {compile_fast()}"
        )
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags_of_xla,
            "JAX_COMPILATION_CACHE_DIR": os.environ.get(
                "JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/faults-cache-{os.getuid()}"
            ),
        }
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self.workdir = workdir
        self._logs = [pathlib.Path(f"{workdir}-{i}.log") for i in range(processes)]
        self.children = []
        for i, log in enumerate(self._logs):
            place = [f"--coordinator_address={address}", f"--num_processes={processes}"]
            whole = [*LAUNCH, *(command or (*TRAIN, f"--workdir={workdir}")), "--json"]
            whole += [*place, f"--process_id={i}"] if processes > 1 else []
            with open(log, "w") as err:
                self.children.append(
                    subprocess.Popen(
                        whole, stdout=subprocess.PIPE, stderr=err, text=True, env=environment
                    )
                )

    def err(self, process: int = 0) -> str:
        return self._logs[process].read_text()

    def kill(self, number: int = signal.SIGKILL, processes: Sequence[int] | None = None) -> None:
        """Sends a signal to some processes, or to all."""
        for i in range(len(self.children)) if processes is None else processes:
            self.children[i].send_signal(number)

    def wait(self, seconds: float = 600.0) -> list[int]:
        """The exit statuses of all processes; kills them and raises Broken after `seconds`."""
        until = time.monotonic() + seconds
        try:
            return [c.wait(max(0.1, until - time.monotonic())) for c in self.children]
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise Broken(f"still running after {seconds} s: {self.err()[-800:]}") from error

    def result(self) -> dict:
        """The result of a run that must end well."""
        statuses = self.wait()
        hold(not any(statuses), f"statuses {statuses}: {self.err()[-800:]}")
        return json.loads(self.children[0].stdout.read().splitlines()[-1])

    def reach(self, step: int) -> None:
        """Returns when metrics.jsonl has that step, or the run has ended."""
        while reached(self) < step:
            if self.children[0].poll() is not None:
                return
            time.sleep(0.02)


def reached(run: Run) -> int:
    """The newest step of metrics.jsonl."""
    return max((r["step"] for r in rows(run.workdir, "train")), default=0)


def rows(workdir: pathlib.Path, kind: str) -> list[dict]:
    """The rows of one kind in metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in whole if row["kind"] == kind]


def saved(workdir: pathlib.Path) -> list[int]:
    """The steps of complete checkpoints."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*") if p.name.isdigit())


def saving(workdir: pathlib.Path) -> bool:
    """Whether a save is under way, or was."""
    return any(not p.name.isdigit() for p in workdir.glob("checkpoints/*"))


def same_curves(workdir: pathlib.Path, other: pathlib.Path) -> float:
    """The largest relative difference of losses; Broken from 1e-5 on, or if evaluations differ."""
    losses = [[r["loss"] for r in rows(w, "train")] for w in (workdir, other)]
    hold(len(losses[0]) == len(losses[1]) == STEPS, "steps were lost or repeated")
    worst = max(abs(a / b - 1) for a, b in zip(*losses, strict=True))
    hold(worst < 1e-5, f"losses differ by {worst:.1e}")
    tops = [[(r["step"], r["top1"]) for r in rows(w, "eval")] for w in (workdir, other)]
    hold(tops[0] == tops[1], "evaluations differ")
    return worst


class Harness:
    """The scenarios. Each breaks runs `count` times; returns what was seen, or raises Broken."""

    def __init__(self, folder: pathlib.Path, seed: int = 0):
        self._folder, self._random = folder, random.Random(seed)
        self._unbroken: dict[tuple[int, int], tuple[str, pathlib.Path]] = {}

    def unbroken(self, processes: int, *, devices: int = DEVICES) -> tuple[str, pathlib.Path]:
        """The parameters' digest and the workdir of an undisturbed run."""
        if (processes, devices) not in self._unbroken:
            workdir = self._folder / f"unbroken-{processes}x{devices // processes}"
            digest = Run(workdir, processes, devices=devices).result()["params_digest"]
            self._unbroken[processes, devices] = (digest, workdir)
        return self._unbroken[processes, devices]

    def _disturbed(
        self, count: int, disturb: Callable[[Run], bool], check: Callable[[Run], None]
    ) -> int:
        """Disturbs runs of one and of two processes `count` times, each up to four times.

        Args:
            disturb: ends a run; returns whether that was before the run's own end.
            check: checks a run that resumed and reached its end.

        Returns:
            The number of runs.
        """
        done = number = 0
        while done < count:
            processes = 1 + number % 2
            digest, _ = self.unbroken(processes)
            workdir = self._folder / f"{disturb.__name__}-{number}"
            for _ in range(min(4, count - done)):
                run = Run(workdir, processes)
                if self._random.random() < 0.75:  # during steps, saves and evaluations
                    run.reach(max(saved(workdir), default=0) + self._random.randrange(1, 6))
                    time.sleep(self._random.random() * 0.3)
                else:  # during start and compilation
                    time.sleep(1.5 + self._random.random() * START_S)
                if not disturb(run):
                    break
                done += 1
            run = Run(workdir, processes)
            hold(run.result()["params_digest"] == digest, f"{workdir.name}: other parameters")
            check(run)
            number += 1
        return number

    def kill_all(self, count: int = 20) -> str:
        """kill -9 of the whole run at random moments, saves and evaluations included"""
        during = 0

        def kill_all(run: Run) -> bool:
            nonlocal during
            run.kill()
            killed = -signal.SIGKILL in run.wait()
            during += killed and saving(run.workdir)
            return killed

        runs = self._disturbed(count, kill_all, lambda _: None)
        return f"{runs} runs, {during} times a save was under way; identical"

    def stop(self, count: int = 20) -> str:
        """SIGTERM at random moments"""
        longest = 0.0

        def stop(run: Run) -> bool:
            nonlocal longest
            start, step = time.monotonic(), reached(run)
            one = [self._random.randrange(len(run.children))]
            run.kill(signal.SIGTERM, self._random.choice((one, None)))  # or all, as SLURM does
            statuses = run.wait()
            longest = max(longest, time.monotonic() - start)
            if not any(statuses):
                hold(STEPS - step < 6, f"told to stop at step {step}, and went on to the end")
                return False
            hold(set(statuses) == {75}, f"statuses {statuses}: {run.err()[-800:]}")
            saved_at = re.search(r"step (\d+) of \d+ is saved", run.err())
            if not saved_at:  # stopped before its first step
                hold("stopped by SIGTERM" in run.err(), run.err()[-800:])
                return True
            at = saved(run.workdir)
            hold(at[-1] == int(saved_at[1]), f"{at}, told {saved_at[1]}")
            every_step_once(run, int(saved_at[1]))
            return True

        def every_step_once(run: Run, last: int = STEPS) -> None:
            trained = [r["step"] for r in rows(run.workdir, "train")]
            hold(trained == list(range(1, last + 1)), f"steps {trained}")

        runs = self._disturbed(count, stop, every_step_once)
        return (
            f"{runs} runs, every step once, identical; at most {longest:.1f} s from the signal to "
            "the end"
        )

    def kill_one(self, count: int = 5) -> str:
        """kill -9 of one of 2 processes, every second time in a save"""
        digest, _ = self.unbroken(2)
        longest, number, tried = 0.0, 0, 0
        while number < count:
            workdir = self._folder / f"kill_one-{tried}"
            tried += 1
            run = Run(workdir, 2)
            run.reach(self._random.randrange(1, STEPS - 6))
            while number % 2 and not saving(run.workdir) and run.children[0].poll() is None:
                time.sleep(0.001)
            victim = number // 2 % 2
            run.kill(signal.SIGKILL, [victim])
            start = time.monotonic()
            statuses = run.wait(60)
            if not any(statuses):  # the run ended before the signal came
                continue
            number += 1
            longest = max(longest, time.monotonic() - start)
            hold(statuses[1 - victim] not in (0, 1, 2), f"statuses {statuses}")
            told = run.err(1 - victim)
            hold("another process of the run" in told or "another task died" in told, told[-800:])
            again = Run(workdir, 2).result()["params_digest"]
            hold(again == digest, "other parameters than the unbroken run")
        return f"the other ended within {longest:.1f} s; the pair that went on: identical"

    def topology(self, count: int = 1, chain: Sequence[int] = (1, 2, 4)) -> str:
        """topology changed at resume, 1 -> 2 -> 4 -> 1 processes"""
        worst = 0.0
        for number in range(count):
            _, unbroken = self.unbroken(1)
            workdir = self._folder / f"topology-{number}"
            for i, processes in enumerate(chain):
                run = Run(workdir, processes)
                run.reach(6 * i + 5)
                run.kill(signal.SIGTERM, [0])
                statuses = run.wait()
                hold(statuses == [75] * processes, f"statuses {statuses}: {run.err()[-800:]}")
            Run(workdir, 1).result()
            worst = max(worst, same_curves(unbroken, workdir))
        return f"losses differ by {worst:.1e} at most, evaluations not at all"

    def meshes(self, count: int = 3) -> str:
        """1 x 1 processes x devices, and 1 x 8, 2 x 4, 4 x 2"""
        _, alone = self.unbroken(1, devices=1)
        worst = max(same_curves(alone, self.unbroken(p)[1]) for p in (1, 2, 4)[:count])
        return f"losses differ by {worst:.1e} at most, evaluations not at all"

    def commands(self, count: int = 2) -> str:
        """eval (10 crops) and predict (a picture of them damaged) by 1 process and by 2"""
        _, workdir = self.unbroken(1)
        pictures = self._folder / "pictures"
        pictures.mkdir()
        for i in range(11):
            pixels = [self._random.randrange(256) for _ in range(40 * 50 * 3)]
            Image.frombytes("RGB", (50, 40), bytes(pixels)).save(pictures / f"{i:02}.png")
        (pictures / "07.png").write_bytes(b"no picture")
        eval_ = ("eval", f"--workdir={workdir}", "--crops=1,10")
        predict = ("predict", f"--checkpoint={workdir}", "--crops=10", str(pictures))
        for command, status, keys in (
            (eval_, 0, ("top1_error", "top5_error", "count")),
            (predict, 1, ("predictions", "rejected")),
        )[:count]:
            results = []
            for processes in (1, 2):
                run = Run(
                    self._folder / f"{command[0]}-{processes}", processes, command=command,
                    devices=DEVICES * processes,  # process 0 needs all of the checkpoint's devices
                )  # fmt: skip
                hold(run.wait() == [status, status][:processes], run.err()[-800:])
                result = json.loads(run.children[0].stdout.read().splitlines()[-1])
                text = json.dumps({key: result[key] for key in keys})
                results.append(re.sub(r"\d\.\d{4,}", lambda x: f"{float(x[0]):.5f}", text))
            hold(results[0] == results[1], f"{results[0]}\n{results[1]}")
        return "the same"

    def damage(self, count: int = 10) -> str:
        """newest checkpoint damaged in 10 different ways"""
        digest, _ = self.unbroken(1)
        base = self._folder / "damage"
        run = Run(base)
        run.reach(8)
        run.kill(signal.SIGTERM)
        run.wait()
        for number, way in enumerate(list(WAYS)[:count]):
            workdir = self._folder / f"damage-{number}"
            shutil.copytree(base, workdir)
            newest = workdir / "checkpoints" / str(saved(workdir)[-1])
            way(newest)
            run = Run(workdir)
            hold(run.result()["params_digest"] == digest, f"{way.__name__}: other parameters")
            hold("is damaged" in run.err(), f"{way.__name__}: nothing was said")
        return "all fell back and ended identical"

    def disk_full(self, count: int = 3) -> str:
        """disk full during a save"""
        if os.getuid():
            return "skipped: mounting a small disk needs root"
        digest, _ = self.unbroken(1)
        for number in range(count):
            disk = self._folder / f"disk-{number}"
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", disk], check=True)
            run = Run(disk)
            try:
                run.reach(self._random.randrange(4, STEPS - 9))
                kept = saved(disk)
                # From no space at all to half of a save's.
                left = (0, 200_000, 2_000_000)[number % 3]
                filler = disk / "filler"
                with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                    while shutil.disk_usage(disk).free > left:  # the run writes meanwhile
                        file.write(bytes(4096))
                statuses = run.wait()
                hold(statuses == [1], f"statuses {statuses}: {run.err()[-800:]}")
                hold("Traceback" not in run.err(), run.err()[-800:])
                hold("space" in run.err().splitlines()[-1], run.err()[-800:])
                hold(max(saved(disk), default=0) >= max(kept, default=0), "a checkpoint was lost")
                filler.unlink()
                again = Run(disk).result()["params_digest"]
                hold(again == digest, "other parameters than the unbroken run")
            finally:
                run.kill()
                subprocess.run(["umount", "--lazy", disk], check=True)
        return "one line, and after making room: identical"


def _biggest(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _change(file: pathlib.Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


def _truncate(folder: pathlib.Path) -> None:
    _change(_biggest(folder), lambda b: b[: len(b) // 2])


def _flip_one_bit(folder: pathlib.Path) -> None:
    _change(
        _biggest(folder),
        lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :],
    )


def _zero_a_block(folder: pathlib.Path) -> None:
    _change(_biggest(folder), lambda b: b[:8192] + bytes(4096) + b[12288:])


def _empty_the_biggest(folder: pathlib.Path) -> None:
    _change(_biggest(folder), lambda _: b"")


def _empty_every_file(folder: pathlib.Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def _remove_the_biggest(folder: pathlib.Path) -> None:
    _biggest(folder).unlink()


def _remove_the_state(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "state")


def _remove_the_sum(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "check")


def _remove_metadata(folder: pathlib.Path) -> None:
    for file in folder.rglob("_*METADATA*"):
        file.unlink()


def _another_sum(folder: pathlib.Path) -> None:
    for file in (folder / "check").rglob("*"):
        if file.is_file() and b"sha256" in file.read_bytes():
            _change(file, lambda b: re.sub(rb"[0-9a-f]{64}", b"0" * 64, b))


WAYS = (
    _truncate, _flip_one_bit, _zero_a_block, _empty_the_biggest, _empty_every_file,
    _remove_the_biggest, _remove_the_state, _remove_the_sum, _remove_metadata, _another_sum,
)  # fmt: skip
SCENARIOS = {
    "kill_all": 20,
    "stop": 20,
    "kill_one": 5,
    "meshes": 3,
    "commands": 2,
    "topology": 1,
    "damage": 10,
    "disk_full": 3,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(SCENARIOS)}")
    failed = 0
    print("| fault | count | what was seen | minutes |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(pathlib.Path(folder), arguments.seed)
        for name in arguments.scenarios or SCENARIOS:
            start, scenario = time.monotonic(), getattr(harness, name)
            try:
                seen = scenario(SCENARIOS[name])
            except Broken as error:
                seen, failed = f"**does not hold**: {error}", failed + 1
            minutes = (time.monotonic() - start) / 60
            print(
                f"| {scenario.__doc__} | {SCENARIOS[name]} | {seen} | {minutes:.1f} |", flush=True
            )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
