"""The progress bar where people look at it, and where it is written to a file."""

import contextlib
import os
import pty
import termios

import pytest
from PIL import Image

import launch
from inception.data import progress
from tests import tiny


def test_on_a_terminal_it_is_redrawn_in_place(monkeypatch) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr("sys.stderr", terminal)
        assert list(progress.bar(range(3), desc="x")) == [0, 1, 2]
    drawn = ""
    with contextlib.suppress(OSError):  # the end, on Linux
        while piece := os.read(ours, 10_000):
            drawn += piece.decode()
    os.close(ours)
    assert drawn.count("\rx: ") >= 2 and "100%" in drawn


@pytest.mark.parametrize("leave", [True, False])
def test_in_a_file_what_takes_long_is_a_line_now_and_then(capfd, monkeypatch, leave: bool) -> None:
    clock = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.1)
    with progress.bar(total=4, leave=leave) as outer, progress.bar(range(500), leave=False) as bar:
        for _ in bar:
            outer.update(0.001)
            clock[0] += 0.002
    err = capfd.readouterr().err
    assert "\r" not in err and "\x1b" not in err
    lines = err.splitlines()
    assert 4 <= len(lines) <= 40 and all("/500 [" in line or "/4 [" in line for line in lines)


@pytest.mark.slow
def test_in_a_file_a_short_command_says_nothing(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 3600.0)  # shorter than that on any machine
    run = tiny.write_run(
        tmp_path / "run",
        tiny.config("--config.input_px=33", "--config.data.resize_px=40", "--noconfig.model.heads"),
    )
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        Image.new("RGB", (40, 40)).save(tmp_path / f"pictures/{i}.png")
    for command in (
        ["predict", f"--checkpoint={run}", f"{tmp_path}/pictures"],
        ["eval", f"--workdir={run}"],
    ):
        assert launch.main(command) == 0
        out, err = capfd.readouterr()
        assert out and not err
