"""Studies' pages, CSV files and HParams, of points that are made up."""

import csv
import itertools
import pathlib
import re
import struct

import optuna
import pytest
from tensorboardX.proto import api_pb2, event_pb2, plugin_hparams_pb2

from inception import UserError
from inception.sweeps import hparams, importance, page


def point(number: int, knobs: dict, top1: float | None = None, **kwargs) -> dict:
    finished = top1 is not None
    row = {
        "number": number,
        "knobs": knobs,
        "state": "finished" if finished else "waiting",
        "workdir": f"study/{number}",
        "epoch": 3.0 if finished else 0.0,
        "epochs": 3.0,
        "best_top1": top1,
        "curve": [(1.0, top1 / 2), (2.0, top1 - 1), (3.0, top1)] if finished else [],
        "seconds_left": None,
        "error": "",
        "result": None,
        "command": f"python launch.py train --workdir=again '--config.x={number} <&>'",
    }
    if finished:
        row["result"] = {"top1_error": 100 - top1, "top5_error": 1.5, "count": 360, "steps": 1234,
                         "images_per_second": 321.5, "params_digest": "ab"}  # fmt: skip
    return row | kwargs


def grid() -> list[dict]:
    """Initializers times rates times seeds; xavier is dead, seeds matter little."""
    rows = []
    for name, rate, seed in itertools.product(("he", "xavier"), (0.001, 0.01), (0, 1, 2)):
        top1 = 10.0 if name == "xavier" else 97 + 100 * rate + seed / 10
        knobs = {"model.initializer": name, "optim.learning_rate": rate, "seed": seed,
                 "optim.epochs": 3.0}  # fmt: skip
        rows.append(point(len(rows), knobs, top1))
    rows[1] |= {"state": "failed", "best_top1": float("nan"), "curve": [(1.0, float("nan"))],
                "error": "loss <became> nan", "result": None, "epoch": 1.5}  # fmt: skip
    rows[2] |= {"state": "running", "result": None, "epoch": 1.0, "seconds_left": 90.0}
    rows[8] |= {"state": "pruned", "result": None, "epoch": 1.0}
    return rows


def written(folder: pathlib.Path, rows: list[dict]) -> str:
    files = page.write(str(folder), rows, name="a & b")
    assert files == {"page": f"{folder}/study.html", "csv": f"{folder}/study.csv"}
    assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".csv", ".html"}
    return pathlib.Path(files["page"]).read_text()


def test_the_page_has_every_part_and_loads_nothing(tmp_path: pathlib.Path) -> None:
    text = written(tmp_path, grid())
    assert "a &amp; b" in text and "12 points: 9 finished, 1 pruned, 1 failed, 1 running" in text
    assert text.count("<svg") == 3 and "<script" not in text and "<?xml" not in text
    assert not re.search(r'(src|href)="(?!data:|#|study\.csv)', text)
    assert "loss &lt;became&gt; nan" in text and "&lt;&amp;&gt;" in text
    assert "The best: point 5, 98.20% top-1" in text and "seed" in text
    assert "running, epoch 1 of 3, 2 min left" in text and "failed, epoch 1.5 of 3" in text
    assert "epochs</th>" not in text  # the same everywhere
    assert "98.10</td>" in text and "98.00 to 98.20, 3 points" in text  # the mean of three seeds
    assert "97.10</td>" in text  # of the one of three that is finished


def test_points_are_in_order_and_linked_where_they_have_a_page(tmp_path: pathlib.Path) -> None:
    rows = grid()
    for row in rows:
        row["workdir"] = str(tmp_path / str(row["number"]))
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "report.html").touch()
    table = written(tmp_path, rows).split("<h2>Points</h2>")[1]
    lines = re.findall(r'<tr class="(\w*)"><td class="n">(?:<a href="(.*?)">)?(\d+)', table)
    assert lines[0] == ("best", "5/report.html", "5") and lines[1][2] == "4"
    assert ("unfinished", "", "2") in lines and lines[-1] == ("failed", "", "1")
    assert len(lines) == 12


def test_the_csv_has_a_line_a_point(tmp_path: pathlib.Path) -> None:
    written(tmp_path, grid())
    lines = list(csv.DictReader((tmp_path / "study.csv").open()))
    assert list(lines[0]) == [
        "number", "state", "model.initializer", "optim.learning_rate", "seed", "best_top1",
        "top1_error", "top5_error", "steps", "images_per_second", "workdir", "error",
    ]  # fmt: skip
    assert lines[1]["best_top1"] == "" and lines[1]["error"] == "loss <became> nan"
    assert (lines[5]["optim.learning_rate"], lines[5]["best_top1"]) == ("0.01", "98.2")
    assert [line["number"] for line in lines] == [str(i) for i in range(12)]


def shares(rows: list[dict]) -> dict[str, float]:
    return optuna.importance.get_param_importances(
        importance.judged(rows), evaluator=importance.EVALUATOR
    )


def test_importances_find_the_knob_that_decides() -> None:
    found = shares(grid())
    assert next(iter(found)) == "model.initializer"
    assert found["model.initializer"] > 0.9 and sum(found.values()) == pytest.approx(1)
    rates = [10 ** (-4 + i / 5) for i in range(16)]  # a scale that needs its logarithm
    knobs = [{"rate": rate, "noise": (7 * i) % 16 / 16} for i, rate in enumerate(rates)]
    assert shares([point(i, k, 50 + 3.0 * i) for i, k in enumerate(knobs)])["rate"] > 0.8


def test_why_there_are_no_importances() -> None:
    said = importance.importances
    few = [point(i, {"a": i}, 50.0 + i) for i in range(3)]
    assert "3 finished so far; importances need 4" in said(few)
    assert "do not differ in any knob" in said([point(i, {"a": 1}, 50.0 + i) for i in range(5)])
    assert "the same top-1" in said([point(i, {"a": i}, 10.0) for i in range(5)])


NAN = float("nan")


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [point(0, {"a": 1})],
        [point(0, {"a": 1}, 100.0)],
        [point(i, {"a": i}, 10.0) for i in range(6)],  # all dead
        [point(i, {"a": i}, 100.0) for i in range(6)],  # no error at all
        [point(i, {"a": i % 2, "b": i}, 90.0 + i) for i in range(11)],
        [point(i, {"a": i}) | {"best_top1": NAN, "curve": [(1.0, NAN), (2.0, None)]} for i in range(5)],
        [point(i, {"a": (1.0, float(i)), "b": bool(i % 2), "c": 1 if i else "auto"}, 9.0 * i) for i in range(9)],
        [point(i, {"a": i % 2} | ({"b": i / 7} if i % 2 else {}), 30.0 + i) for i in range(9)],
        [point(i, {"a": [i], "b": NAN if i else 1.0, "c": 1.0 if i else 1}, 30.0 + i) for i in range(9)],
        [point(i, {"x.a": i, "y.a": -i, "name": f"${i}^{i}$" * i}, 30.0 + i) for i in range(70)],
    ],
)  # fmt: skip
def test_odd_studies_have_a_page(rows: list[dict], tmp_path: pathlib.Path) -> None:
    assert "<h2>Points</h2>" in written(tmp_path, rows)
    hparams.write_hparams(str(tmp_path), rows)


def test_a_page_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    for write in (
        lambda f: page.write(f, [], name="x"),
        lambda f: hparams.write_hparams(f, []),
    ):
        with pytest.raises(UserError, match="cannot be written"):
            write(str(tmp_path / "file"))


def summaries(folder: pathlib.Path) -> dict:
    """{tag: HParams' message or number} of a folder's only event file."""
    (path,) = folder.glob("*tfevents*")
    data, found = path.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            content = value.metadata.plugin_data.content
            message = plugin_hparams_pb2.HParamsPluginData.FromString(content)
            found[value.tag] = message if content else value.simple_value
        data = data[16 + length :]
    return found


def test_tensorboard_gets_the_study_once(tmp_path: pathlib.Path) -> None:
    rows = grid()
    hparams.write_hparams(str(tmp_path), rows)
    folder = tmp_path / "hparams"
    experiment = summaries(folder)["_hparams_/experiment"].experiment
    assert {info.name: info.type for info in experiment.hparam_infos} == {
        "model.initializer": api_pb2.DATA_TYPE_STRING,
        "optim.learning_rate": api_pb2.DATA_TYPE_FLOAT64,
        "seed": api_pb2.DATA_TYPE_FLOAT64,
    }
    assert experiment.metric_infos[0].name.tag == "best_top1"
    best = summaries(folder / "5")
    start = best["_hparams_/session_start_info"].session_start_info.hparams
    assert start["optim.learning_rate"].number_value == 0.01
    assert start["model.initializer"].string_value == "he"
    assert best["best_top1"] == pytest.approx(98.2) and best["top5_error"] == 1.5
    ends = {
        row["number"]: summaries(folder / str(row["number"])).get("_hparams_/session_end_info")
        for row in rows
    }
    assert ends[0].session_end_info.status == api_pb2.STATUS_SUCCESS
    assert ends[1].session_end_info.status == api_pb2.STATUS_FAILURE and ends[2] is None
    assert "best_top1" not in summaries(folder / "1")  # it is not a number

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*tfevents*")}
    rows[2] |= {"state": "finished"}
    hparams.write_hparams(str(tmp_path), rows[:-1])
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*tfevents*")}
    assert len(before) == 13 and len(after) == 12  # the last point is gone
    assert len(after.keys() - before.keys()) == 1 and not list(folder.rglob("unfinished"))
    end = summaries(folder / "2")["_hparams_/session_end_info"].session_end_info
    assert end.status == api_pb2.STATUS_SUCCESS
