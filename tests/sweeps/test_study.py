"""Sweeps and searches: points, workers, resuming; with a stand-in for training, which takes long."""

import errno
import fcntl
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import experiments
from inception import Interrupted
from inception.data import paths, whole
from inception.sweeps import command, live, local, plan, search, study
from tests import tiny

# Writes what train writes; the top-1 is the rate, and a rate of 13 fails.
TRAINER = """
import json, pathlib, signal, sys, time
rate, seconds, workdir = float(sys.argv[1]), float(sys.argv[2]), pathlib.Path(sys.argv[3])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
workdir.mkdir(parents=True, exist_ok=True)
(workdir / "config.json").write_text(json.dumps({"optim": {"epochs": 4.0}}))
with open(workdir / "starts", "a") as file:
    file.write("x")
print("begins", flush=True)
if rate == 13:
    sys.exit("launch.py train: config.seed=13: bad luck")
for epoch in range(1, 5):
    with open(workdir / "metrics.jsonl", "a") as file:
        for row in (
            {"kind": "train", "step": epoch, "epoch": epoch, "images_per_second": 9.0},
            {"kind": "eval", "step": epoch, "epoch": epoch, "top1": rate * epoch / 400},
        ):
            file.write(json.dumps(row) + "\\n")
    if epoch > 1:
        time.sleep(seconds)
(workdir / "result.json").write_text(json.dumps({"top1_error": 100 - rate, "steps": 4}))
"""
LAUNCH = (sys.executable, "-c", TRAINER)


def make(folder: pathlib.Path, seconds: float = 0.0):
    def point(number: int, knobs: dict) -> study.Point:
        workdir = f"{folder}/{number}"
        return study.Point(number, knobs, workdir, (str(knobs["rate"]), str(seconds), workdir))

    return point


def starts(point: study.Point) -> int:
    file = point.folder / "starts"
    return len(file.read_text()) if file.exists() else 0


def states(points: list[study.Point]) -> list[str]:
    return [study.row(p)["state"] for p in points]


def test_every_point_runs_once_and_broken_ones_again(tmp_path: pathlib.Path) -> None:
    points = [make(tmp_path)(i, {"rate": rate}) for i, rate in enumerate((20, 13, 60))]
    for time_ in (1, 2):
        local.run(study.Grid(str(tmp_path), points), launch=LAUNCH, workers=2)
        assert states(points) == ["finished", "failed", "finished"]
        assert [starts(p) for p in points] == [1, time_, 1]
    rows = [study.row(p) for p in points]
    assert rows[1]["error"] == "launch.py train: config.seed=13: bad luck"
    assert rows[2]["best_top1"] == 60 and rows[2]["curve"] == [(1, 15), (2, 30), (3, 45), (4, 60)]


def test_a_killed_point_is_broken_and_says_by_what(tmp_path: pathlib.Path) -> None:
    (point,) = points = [make(tmp_path, seconds=60)(0, {"rate": 1})]

    def kill() -> None:
        while not starts(point):
            time.sleep(0.05)
        out = subprocess.run(["pgrep", "-f", point.workdir], capture_output=True, text=True).stdout
        os.kill(int(out.split()[0]), signal.SIGKILL)

    threading.Thread(target=kill).start()
    local.run(study.Grid(str(tmp_path), points), launch=LAUNCH, workers=1)
    assert states(points) == ["failed"]
    assert study.row(point)["error"].startswith("killed by SIGKILL; see ")


def test_ctrl_c_stops_all_and_the_same_call_goes_on(tmp_path: pathlib.Path) -> None:
    points, same = (
        [make(tmp_path, seconds)(i, {"rate": 10 * i}) for i in range(3)] for seconds in (60, 0)
    )

    def interrupt() -> None:
        while not all(starts(p) for p in points[:2]):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted):
        local.run(study.Grid(str(tmp_path), points), launch=LAUNCH, workers=2)
    assert states(points) == ["stopped", "stopped", "waiting"]
    local.run(study.Grid(str(tmp_path), same), launch=LAUNCH, workers=2)
    assert states(points) == ["finished"] * 3
    assert [starts(p) for p in points] == [2, 2, 1]


def test_a_point_whose_folder_is_in_use_is_waited_for(tmp_path: pathlib.Path, capfd) -> None:
    points = [make(tmp_path)(i, {"rate": rate}) for i, rate in enumerate((20, 60))]
    with open(points[0].log().with_name("lock"), "w") as lock:
        paths.lock(lock, "")  # as a run has it that saves after its sweep was killed

        def end() -> None:
            while points[1].result() is None:
                time.sleep(0.05)
            begun.append(starts(points[0]))
            lock.close()

        begun: list[int] = []
        threading.Thread(target=end).start()
        local.run(study.Grid(str(tmp_path), points), launch=LAUNCH, workers=2)
    assert begun == [0] and [starts(p) for p in points] == [1, 1]
    assert states(points) == ["finished"] * 2
    assert f"{points[0].workdir} is in use: waiting" in capfd.readouterr().err


def test_ctrl_c_ends_the_wait_for_a_folder_in_use(tmp_path: pathlib.Path, monkeypatch) -> None:
    asked = itertools.count()

    def in_use(_point: study.Point) -> bool:
        if next(asked) == 3:  # it waits
            os.kill(os.getpid(), signal.SIGINT)
        return True

    monkeypatch.setattr(study.Point, "in_use", in_use)
    (point,) = points = [make(tmp_path)(0, {"rate": 1})]
    with pytest.raises(Interrupted):
        local.run(study.Grid(str(tmp_path), points), launch=LAUNCH, workers=1)
    assert starts(point) == 0


def test_workers_share_the_cores(tmp_path: pathlib.Path) -> None:
    cores = len(os.sched_getaffinity(0))
    with tiny.refused(f"--workers={cores + 1}: there are {cores} cores", "workers"):
        local.run(study.Grid(str(tmp_path), []), launch=LAUNCH, workers=cores + 1)
    for count in range(1, cores + 1):
        shares = local.core_shares(count)
        assert len(set.union(*shares)) == sum(map(len, shares)) == count * (cores // count)


def test_a_folder_of_another_study_or_in_use_is_refused(tmp_path: pathlib.Path) -> None:
    folder = str(tmp_path / "study")
    study.create(folder, {"config": "a.py", "points": [{"x": 1}, {"x": 2}]})
    study.create(folder, {"config": "a.py", "points": [{"x": 1}, {"x": 2}]})
    message = r"study has another sweep: points\[1\] is {'x': 2} there and {'x': 3} here"
    with tiny.refused(message):
        study.create(folder, {"config": "a.py", "points": [{"x": 1}, {"x": 3}]})
    with tiny.refused(r"points\[1\] is {'x': 2} there and nothing here"):
        study.create(folder, {"config": "a.py", "points": [{"x": 1}]})
    with study.exclusive(folder), tiny.refused("in use by another"), study.exclusive(folder):
        pass


def test_a_study_where_files_have_neither_locks_nor_links(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def no_locks(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def no_links(*_) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(os, "link", no_links)
    folder = tmp_path / "study"
    study.create(str(folder), {"points": [{"rate": 1}]})
    points = [make(folder)(0, {"rate": 1})]
    local.run(study.Grid(str(folder), points), launch=LAUNCH, workers=1)
    assert states(points) == ["finished"]
    assert f"WARNING: {folder}/worker cannot be locked" in capfd.readouterr().err
    with whole.all_or_nothing(str(tmp_path / "store")) as work:
        (work / "file").touch()
    assert (tmp_path / "store" / "file").exists()


def test_a_study_that_was_killed_at_its_beginning_begins_anew(tmp_path: pathlib.Path) -> None:
    (tmp_path / "study.json").touch()
    study.create(str(tmp_path), {"points": [1]})
    with tiny.refused("another sweep"):
        study.create(str(tmp_path), {"points": [2]})


def test_the_command_that_runs_a_point_again_leaves_its_folder_alone(tmp_path) -> None:
    point = plan.Plan("a.py", ["--config.x=1"], "my study").point(7, {"seed": 1})
    assert study.row(point)["command"] == (
        "python launch.py train --config=a.py '--workdir=my study/7-again' --config.x=1 "
        "--config.seed=1"
    )


def test_the_table_shows_what_differs(tmp_path: pathlib.Path) -> None:
    rows = [study.row(make(tmp_path)(i, {"rate": i / 3, "same": "x"})) for i in range(50)]
    table = live.table(rows)
    assert [c.header for c in table.columns] == ["", "rate", "state", "epoch", "best top-1", "left"]
    assert table.row_count == live.SHOWN and "10 more" in table.caption


SPACE = {"rate": experiments.log_uniform(1, 100), "kind": ("a", "b")}


def test_a_search_learns_stops_and_goes_on(tmp_path: pathlib.Path) -> None:
    def trials(count: int) -> search.Search:
        point = make(tmp_path)
        return search.Search(str(tmp_path), SPACE, trials=count, point=point)

    local.run(trials(3), launch=LAUNCH, workers=1)
    first = trials(3).rows()
    assert [r["state"] for r in first] == ["finished"] * 3
    assert all(1 <= r["knobs"]["rate"] <= 100 and r["knobs"]["kind"] in "ab" for r in first)
    local.run(trials(5), launch=LAUNCH, workers=2)
    assert [r["knobs"] for r in trials(5).rows()[:3]] == [r["knobs"] for r in first]
    assert [r["state"] for r in trials(5).rows()] == ["finished"] * 5


def test_a_trial_of_a_dead_worker_is_taken_up(tmp_path: pathlib.Path) -> None:
    def new() -> search.Search:
        return search.Search(str(tmp_path), SPACE, trials=2, point=make(tmp_path))

    dead = new()
    knobs = next(dead.points()).knobs
    assert [p.number for p in new().points()] == [1]  # of another worker, which still lives
    dead._open[0][1].close()
    alive = new()
    assert next(alive.points()).knobs == knobs


@pytest.mark.slow
def test_halving_stops_the_worse(tmp_path: pathlib.Path, monkeypatch) -> None:
    """The best end before anyone looks at them, and the worst never by themselves."""

    def point(number: int, knobs: dict) -> study.Point:
        return make(tmp_path, seconds=0.0 if knobs["rate"] > 2 else 3600.0)(number, knobs)

    space = {"rate": experiments.uniform(0, 100)}
    searched = search.Search(str(tmp_path), space, trials=5, point=point)
    for rate in (80.0, 60.0, 70.0, 2.0, 1.0):
        searched._study.enqueue_trial({"rate": rate})
    searched._trials = 10
    draw = searched.points
    taken = itertools.islice(iter(lambda: next(draw()), None), 5)
    monkeypatch.setattr(searched, "points", lambda: taken)
    local.run(searched, launch=LAUNCH, workers=1)
    ended = {r["knobs"]["rate"]: r["state"] for r in searched.rows() if "rate" in r["knobs"]}
    assert ended[80.0] == "finished" and ended[1.0] == ended[2.0] == "pruned"


def test_trials_compare_at_equal_times_however_late_they_are_looked_at(tmp_path) -> None:
    """A trial that ended before anyone looked counts at each rung with its value there."""
    searched = search.Search(str(tmp_path), SPACE, trials=3, point=make(tmp_path))
    points = searched.points()
    for curve, stops in (
        ((0.1, 0.6, 0.6, 0.6, 0.62), False),
        ((0.1, 0.2, 0.5, 0.7, 0.9), True),  # by the second value; its fifth is in no rung
        ((0.1, 0.7, 0.7, 0.75, 0.8), False),
    ):
        point = next(points)
        evaluated(point, curve)
        assert searched.prune(point) == stops
        searched.prune(point)


def evaluated(point: study.Point, curve, seconds=(1, 1, 1, 1, 1)) -> None:
    """Writes the lines of a run of one image a step that takes so many seconds to each evaluation."""
    lines = []
    for n, (top1, each) in enumerate(zip(curve, seconds, strict=False), 1):
        lines += [
            {"kind": "train", "step": 10 * n, "epoch": n, "images_per_second": 10 / each},
            {"kind": "eval", "step": 10 * n, "epoch": n, "top1": top1},
        ]
    point.folder.mkdir(exist_ok=True)
    (point.folder / "config.json").write_text(
        json.dumps({"optim": {"epochs": 8.0, "batch_size": 1}})
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (point.folder / "metrics.jsonl").write_text(text)


def test_trials_of_some_minutes_compare_at_equal_times(tmp_path) -> None:
    """Small images first: its second evaluation comes before a quarter of its time, and waits."""
    searched = search.Search(str(tmp_path), SPACE, trials=2, minutes=8 / 60, point=make(tmp_path))
    points = searched.points()
    even, growing = next(points), next(points)
    evaluated(even, (0.1, 0.5, 0.6))
    assert not searched.prune(even)
    evaluated(growing, (0.1, 0.2, 0.6), seconds=(0.6, 0.6, 0.8))
    assert not searched.prune(growing)
    reported = [t.intermediate_values for t in searched._study.trials]
    assert reported == [{0: 10, 1: 50, 2: 60}, {0: 10, 1: 60}]


def test_the_command_that_repeats_a_trial_of_some_minutes_has_its_epochs(tmp_path) -> None:
    point = plan.Plan("experiments/digits.py", [], str(tmp_path), minutes=2.0).point(0, {"seed": 1})
    assert point.command[-1] == "--minutes=2"
    evaluated(point, (0.5,))
    assert "--minutes" not in (shown := study.row(point)["command"])
    assert shown.endswith("--config.seed=1 --config.optim.epochs=8.0")


@given(st.integers(1, 4), st.integers(1, 4))
def test_a_grid_has_every_combination_once(a: int, b: int) -> None:
    points = experiments.grid({"x": tuple(range(a)), "y": tuple("abcd"[:b])})
    assert len(points) == a * b == len({tuple(p.values()) for p in points})


def test_points_of_a_space() -> None:
    assert experiments.zipped({"x": (1, 2), "y": (3, 4)}) == [{"x": 1, "y": 3}, {"x": 2, "y": 4}]
    with pytest.raises(ValueError, match="as many values"):
        experiments.zipped({"x": (1, 2), "y": (3,)})
    with pytest.raises(ValueError, match="a grid needs values"):
        experiments.grid({"x": experiments.uniform(0, 1)})
    with pytest.raises(ValueError, match="from above 0"):
        experiments.log_uniform(0, 1)
    drawn = experiments.random(SPACE, 400, seed=1)
    assert drawn == experiments.random(SPACE, 400, seed=1) != experiments.random(SPACE, 400)
    assert 150 < sum(p["rate"] < 10 for p in drawn) < 250  # half of the logarithms


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "yield {'optim.lr': 1.0}",
            "there is no knob config.optim.lr; the nearest is config.optim.",
        ),
        ("yield {'optim.epochs': 'many'}", "optim.epochs"),
        ("yield {'seed': 1}\n    yield {'seed': 1}", "points 0 and 1 of the sweep are alike"),
        ("return []", "the sweep has no points"),
        ("return [1 / 0]", "sweep(): ZeroDivisionError"),
        ("return [5]", "sweep(): AttributeError"),
        ("return zipped({'seed': (1, 2), 'data.seed': (1,)})", "as many values for each knob"),
    ],
)
def test_wrong_sweeps_are_found_before_anything_starts(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture, body: str, message: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from experiments import zipped\nfrom experiments.digits import get_config\n"
        f"def sweep():\n    {body}\n"
    )
    import launch

    status = launch.main(["sweep", f"--config={file}", f"--workdir={tmp_path}/s", *tiny.OVERRIDES])
    error = capfd.readouterr().err
    assert status == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("model.norm", "batchh", "config.model.norm=batchh: choose one of lrn, batch, none"),
        ("model.conv5x5_px", 4, "config.model.conv5x5_px=4: choose one of 3, 5"),
        ("data.resize", "foo", "config.data.resize=foo: choose one of short, squash"),
        ("data.source", "photos", "config.data.source=photos: choose one of digits, folder"),
        ("data.normalization", "x", "config.data.normalization=x: choose one of mean"),
        ("optim.schedule", "x", "config.optim.schedule=x: choose one of polynomial"),
        ("optim.accumulate", 0, "config.optim.accumulate=0: must be at least 1"),
        ("optim.warmup_epochs", 3.0, "config.optim.warmup_epochs=3.0: must be shorter than"),
        ("run.workers", 0, "config.run.workers=0: all, or from 1 to 256"),
        ("input_px", 32, "config.input_px=32 is too small for the auxiliary heads"),
    ],
)
def test_choices_that_there_are_not_are_found_before_anything_starts(
    tmp_path: pathlib.Path, capfd, knob: str, value, message: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from experiments import grid\nfrom experiments.digits import get_config\n"
        f"def space():\n    return {{'seed': (1, 2), {knob!r}: ({value!r},)}}\n"
        "def sweep():\n    return grid(space())\n"
    )
    import launch

    args = ["sweep", f"--config={file}", f"--workdir={tmp_path}/s", *tiny.OVERRIDES]
    args = [a for a in args if knob not in a]
    for more in ([], ["--search=2"]) if isinstance(value, str) else ([],):
        assert launch.main([*args, *more]) == 1
        error = capfd.readouterr().err
        assert error.startswith(f"launch.py sweep: {message}") and error.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_search_by_its_command(tmp_path: pathlib.Path, capfd, monkeypatch) -> None:
    """The whole command; of a point's training only the stand-in."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from experiments.digits import get_config\ndef space():\n    return {'seed': (1, 2, 3)}\n"
    )
    # A point's command has its workdir and its seed among others: as TRAINER wants them.
    order = """
import sys
given = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
sys.argv[1:] = [given["--config.seed"], "0", given["--workdir"]]
"""
    monkeypatch.setattr(command, "LAUNCH", (sys.executable, "-c", order + TRAINER))
    import launch

    args = ["sweep", f"--config={file}", f"--workdir={tmp_path}/s", "--search=2", "--json"]
    assert launch.main(args) == 0
    points = json.loads(capfd.readouterr().out.splitlines()[-1])["points"]
    assert len(points) == 2
    for point in points:
        assert point["result"]["top1_error"] == 100 - point["overrides"]["seed"]
    assert (tmp_path / "s/study.html").exists()


def test_named_sweeps(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from experiments.digits import get_config\n"
        "def sweep_seeds():\n    return [{'seed': 5}]\ndef space():\n    return {'nope': (1,)}\n"
    )
    import launch

    args = ["sweep", f"--config={file}", f"--workdir={tmp_path}/s", "--dry_run", "--json"]
    assert launch.main([*args, "--sweep=seeds", "--minutes=2.5"]) == 0
    out, err = capfd.readouterr()
    assert err.splitlines()[0].endswith("--config.seed=5 --minutes=2.5")
    assert json.loads(out.splitlines()[-1]) == {
        "points": [{"overrides": {"seed": 5}, "workdir": f"{tmp_path}/s/0", "result": None}]
    }
    assert launch.main(args) == 2
    assert "defines no sweep(); there is sweep_seeds()" in capfd.readouterr().err
    assert launch.main([*args, "--search=3"]) == 2
    assert "there is no knob config.nope" in capfd.readouterr().err


def test_workers_draw_other_points_and_a_resumed_search_too(tmp_path: pathlib.Path) -> None:
    def new() -> search.Search:
        return search.Search(str(tmp_path), SPACE, trials=9, point=make(tmp_path))

    searches = [new(), new(), new()]
    drawn = [next(s.points()).knobs["rate"] for s in searches]
    assert len(set(drawn)) == 3 and searches[0].missing == 9
    (tmp_path / "b").mkdir()
    again = search.Search(str(tmp_path / "b"), SPACE, trials=9, point=make(tmp_path / "b"))
    assert next(again.points()).knobs["rate"] == drawn[0]  # a function of the seed


def test_a_trial_cut_off_while_it_was_chosen_is_no_trial(tmp_path: pathlib.Path) -> None:
    def new() -> search.Search:
        return search.Search(str(tmp_path), SPACE, trials=2, point=make(tmp_path))

    new()._study.ask()  # and then killed
    local.run(searched := new(), launch=LAUNCH, workers=1)
    assert [r["state"] for r in searched.rows()] == ["finished"] * 2 and searched.missing == 0


def test_a_folder_of_a_run_is_no_study(tmp_path: pathlib.Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "config.json").write_text("{}")
    with tiny.refused("has runs but no study.json"):
        study.create(str(tmp_path), {})
    with tiny.refused("is a run, not a study"):
        study.create(str(tmp_path / "0"), {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.csv").write_text("mine")
    with tiny.refused("has study.csv, no study.json"):
        study.create(str(tmp_path / "mine"), {})
