"""Outputs of others stay; paths in buckets, through a file system that keeps gs:// in a folder of this machine."""

import contextlib
import json
import pathlib
import shutil
import sys

import pytest
import tensorboardX
from etils.epath import backend

import launch
from inception.data import outputs, paths, sources
from inception.knobs import KNOBS
from inception.reporting import metrics, page
from inception.runtime import checkpoint, workdir
from tests import tiny


def test_a_data_folder_in_a_bucket(photos: pathlib.Path, bucket: pathlib.Path) -> None:
    shutil.copytree(photos, bucket / "photos")
    here, there = (
        sources.open_source("folder", path=path, split="train")
        for path in (str(photos), "gs://bucket/photos")
    )
    assert there.classes == here.classes and len(there) == len(here)
    for i in range(len(here)):
        assert there[i] == here[i]
        assert pathlib.Path(there.name(i)).name == pathlib.Path(here.name(i)).name


def test_a_runs_files_in_a_bucket(bucket: pathlib.Path) -> None:
    config = json.loads(tiny.config().to_json())
    run = "gs://bucket/runs/one"
    with workdir.locked(config, run):
        checkpoint.write_classes(run, ("a", "b", "c"))
    assert workdir.read_config(run)["input_px"] == config["input_px"]
    (bucket / "runs" / "one" / "metrics.jsonl").touch()
    with tiny.refused("belongs to another config"):
        workdir.write_config({**config, "seed": 7}, run)
    assert (bucket / "runs" / "one" / "classes.txt").read_text() == "a\nb\nc\n"


@pytest.mark.parametrize("knob", ["optim.gradient_dtype", "data.area_range"])
def test_a_run_of_a_version_without_a_knob_goes_on_at_its_default(
    tmp_path: pathlib.Path, knob: str
) -> None:
    default = json.loads(tiny.config(f"--config.{knob}={KNOBS[knob].default}").to_json())
    group, name = knob.split(".")
    of_older = {**default, group: {k: v for k, v in default[group].items() if k != name}}
    workdir.write_config(of_older, str(tmp_path))
    (tmp_path / "metrics.jsonl").touch()
    workdir.write_config(default, str(tmp_path))
    with tiny.refused(f"{knob} is .* there and other here"):
        workdir.write_config({**default, group: {**default[group], name: "other"}}, str(tmp_path))


@pytest.mark.parametrize("knob", sorted(workdir.PLACES))
def test_a_run_goes_on_where_a_path_is_spelled_otherwise(tmp_path, monkeypatch, knob: str) -> None:
    monkeypatch.chdir(tmp_path)
    run, (*groups, name) = str(tmp_path / "run"), knob.split(".")

    def start(path: str) -> None:
        config = json.loads(tiny.config().to_json())
        (config[groups[0]] if groups else config)[name] = path
        workdir.write_config(config, run)

    (tmp_path / "set").mkdir()
    start("set")
    (tmp_path / "run" / "metrics.jsonl").touch()
    for same in ("set/", "./set", str(tmp_path / "set")):
        start(same)
    (tmp_path / "set").rename("moved")
    for other in ("moved", "gs://bucket/moved", ""):
        with tiny.refused("make the old path a link to the new one"):
            start(other)
    (tmp_path / "set").symlink_to("moved")
    start("moved")


def test_metrics_and_the_page_in_a_bucket(
    bucket: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tensorboardX.SummaryWriter(str(tmp_path / "events"))  # its own way is Google's library
    monkeypatch.setattr(tensorboardX, "SummaryWriter", lambda *_, **__: events)
    run = "gs://bucket/run"
    workdir.write_config(json.loads(tiny.config().to_json()), run)
    for start_step, steps in ((0, range(1, 6)), (3, range(4, 8))):  # the second goes on at 3
        writer = metrics.Writer(run, start_step=start_step)
        for step in steps:
            writer.write("train", step, epoch=step / 2, loss_main=2.5, waiting_for_data=0.1)
        writer.close()
    assert [row["step"] for row in metrics.read_metrics(run)] == [1, 2, 3, 4, 5, 6, 7]
    monkeypatch.setattr(page, "_filters", lambda _: "")  # Orbax reads buckets its own way
    page.write([run], "gs://bucket/pages/one.html")
    assert "Waiting for data" in (bucket / "pages" / "one.html").read_text()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("theirs", r"theirs cannot be written: a file of another kind exists: name another, or"),
        ("theirs/x", r"--output=.*theirs/x cannot be written: .*theirs is no folder"),
        ("folder", "a folder of that name exists"),
        ("empty", ""),
        ("ours", ""),
        ("new/folder/x", ""),
    ],
)
def test_outputs_are_checked_before_the_work(
    tmp_path: pathlib.Path, file: str, message: str
) -> None:
    (tmp_path / "theirs").write_text("a letter")
    (tmp_path / "ours").write_text("KIND: an older one")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    refused = tiny.refused(message, "output") if message else contextlib.nullcontext()
    with refused:
        outputs.check(output=(str(tmp_path / file), b"KIND"), hlo=("", b"other"))
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "theirs").read_text() == "a letter"


def test_two_outputs_of_one_name_are_refused(tmp_path: pathlib.Path, bucket, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(".")
    for one, other in (
        ("x", "./x"),
        ("x", "link/x"),
        ("x", f"{tmp_path}/x"),
        ("gs://bucket/x", "gs://bucket/x"),
    ):
        with tiny.refused("--hlo and --output are both .*: name two files", "hlo", "output"):
            outputs.check(hlo=(one, b"1"), output=(other, b"2"))
    outputs.check(hlo=("x", b"1"), output=("y", b"2"))


@pytest.mark.slow
def test_a_report_replaces_no_file_of_another_kind(tmp_path: pathlib.Path, capfd) -> None:
    run = tiny.write_run(tmp_path / "run", tiny.config())
    result = {"top1_error": 50.0, "top5_error": 0.0, "count": 2, "classes": ["a"], "confusion": [],
              "mistakes": [], "split": "test"}  # fmt: skip
    (tmp_path / "run" / "eval.json").write_text(json.dumps(result))
    config = tmp_path / "run" / "config.json"
    before = config.read_bytes()
    assert launch.main(["report", run, f"--output={config}"]) == 1
    assert "a file of another kind exists" in capfd.readouterr().err
    assert config.read_bytes() == before
    for name in ("page.html", "table.csv"):  # its own are replaced
        for _ in range(2):
            assert launch.main(["report", run, f"--output={tmp_path}/{name}"]) == 0
    (tmp_path / "page.html").rename(tmp_path / "page.csv")
    assert launch.main(["report", run, f"--output={tmp_path}/page.csv"]) == 1


def test_what_cannot_be_reached_is_named(bucket: pathlib.Path, monkeypatch) -> None:
    with tiny.refused(r"path=gs://bucket/none: no such folder"):
        sources.open_source("folder", path="gs://bucket/none", split="train")
    for source in ("tfds", "store"):
        with tiny.refused("ArrayRecord files are read from disks"):
            sources.open_source(source, path="gs://bucket/set", split="train")
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gcs")
    backend.fsspec_backend._get_filesystem.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with tiny.refused(r"gs://bucket/x: pip install gcsfs first"):
        paths.at("gs://bucket/x")
