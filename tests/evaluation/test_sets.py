"""Sets as people have them: the same pictures give the same numbers, whatever holds their classes."""

import json
import pathlib
import shutil

import pytest

import launch
from inception.runtime import checkpoint
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def run(tmp_path: pathlib.Path) -> str:
    small = ("--config.data.resize_px=40", "--config.input_px=33", "--config.model.heads=False")
    workdir = tiny.write_run(tmp_path / "run", tiny.config(*small, "--config.data.source=folder"))
    checkpoint.write_classes(workdir, CLASSES)
    return workdir


@pytest.fixture
def val(photos: pathlib.Path) -> pathlib.Path:
    """set/val/ant/ant_0.jpeg, ..."""
    for file in photos.glob("*/*"):
        file.rename(file.with_name(f"{file.parent.name}_{file.name}"))
    (photos.parent / "set").mkdir()
    return photos.rename(photos.parent / "set/val")


def evaluate(capfd, run: str, *flags: str) -> tuple[dict, list[dict], str]:
    """The result, the predictions and what is printed of an evaluation."""
    file = pathlib.Path(run) / "predictions.jsonl"
    args = ["eval", f"--workdir={run}", "--json", f"--predictions={file}", *flags]
    capfd.readouterr()
    assert launch.main(args) == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    return json.loads(out), [json.loads(line) for line in file.read_text().splitlines()], err


@pytest.mark.slow
def test_every_layout_of_a_set_gives_the_same_numbers(run, val, tmp_path, capfd) -> None:
    flat, files = tmp_path / "flat", sorted(val.glob("*/*"))
    (flat / "val").mkdir(parents=True)
    for file in files:
        shutil.copy(file, flat / "val")
    kaggle = "".join(f"{f.stem},{f.parent.name} 1 2 3 4\n" for f in reversed(files))
    (tmp_path / "kaggle.csv").write_text(f"ImageId,PredictionString\n{kaggle}")
    caffe = "".join(f"{f.name} {CLASSES.index(f.parent.name)}\n" for f in files)
    (tmp_path / "val.txt").write_text(caffe)
    lists = "".join(f"{f.parent.name}\tval/{f.name}\n" for f in files)
    (tmp_path / "list.tsv").write_text(f"class\tpath\n{lists}")
    prepare = ["prepare", f"--source={val.parent}", f"--output={tmp_path}/store"]
    assert launch.main([*prepare, "--short_side=256", "--format=rgb"]) == 0
    prepare = ["prepare", f"--source={flat}", f"--output={tmp_path}/listed"]
    prepare += [f"--labels={tmp_path}/kaggle.csv", "--short_side=256", "--format=rgb"]
    assert launch.main(prepare) == 0
    layouts = {
        "folders": [f"--config.data.path={val.parent}", "--split=val"],
        "folder": [f"--config.data.path={val}", "--split=all"],
        "kaggle": [f"--config.data.path={flat}", "--split=val",
                   f"--config.data.labels={tmp_path}/kaggle.csv"],
        "caffe": [f"--config.data.path={flat}", "--split=val",
                  f"--config.data.labels={tmp_path}/val.txt"],
        "list": [f"--config.data.path={flat}", "--split=val",
                 f"--config.data.labels={tmp_path}/list.tsv"],
        "store": ["--config.data.source=store", f"--config.data.path={tmp_path}/store",
                  "--split=val"],
        "listed store": ["--config.data.source=store", f"--config.data.path={tmp_path}/listed",
                         "--split=val"],
    }  # fmt: skip
    result, predictions, _ = evaluate(capfd, run, *layouts.pop("folders"))
    assert result["count"] == 30 and result["table"][0]["log_loss"] > 0
    of_images = [(p["class"], p["top"]) for p in predictions]
    for name, flags in layouts.items():
        other, others, err = evaluate(capfd, run, *flags)
        assert other == result, name
        assert [(p["class"], p["top"]) for p in others] == of_images, name
        assert ("numbers of its outputs (0 is ant)" in err) == (name == "caffe")


@pytest.mark.slow
def test_only_the_outputs_of_the_sets_classes_count_if_asked(run, val, capfd) -> None:
    """ImageNet-A's and ImageNet-R's rule."""
    shutil.rmtree(val / "bee")
    flags = [f"--config.data.path={val}", "--split=all"]
    result, every, err = evaluate(capfd, run, *flags)
    assert result["outputs"] == 3 and "3 of 3 outputs count (--outputs=present: those of" in err
    result, present, err = evaluate(capfd, run, *flags, "--outputs=present")
    assert result["outputs"] == 2 and "2 of 3 outputs count\n" in err
    for one, other in zip(every, present, strict=True):
        left = {name: p for name, p in one["top"] if name != "bee"}
        assert [name for name, _ in other["top"]] == list(left)
        for name, p in other["top"]:
            assert p == pytest.approx(left[name] / sum(left.values()), abs=1e-5)
    wrong = sum(p["class"] != p["top"][0][0] for p in present)
    assert result["top1_error"] == pytest.approx(100 * wrong / 20)


@pytest.mark.slow
def test_any_of_reals_classes_is_right(run, val, tmp_path, capfd) -> None:
    flags = [f"--config.data.path={val.parent}", "--split=val"]
    before, predictions, _ = evaluate(capfd, run, *flags)
    assert before["top1_error"] > 0
    top = {p["image"]: [CLASSES.index(name) for name, _ in p["top"]] for p in predictions}
    likeliest = [top[image] for image in sorted(top, key=lambda image: image.split("/")[-1])]
    right = [[t[2], t[0]] if i % 2 else [t[1], t[2]] for i, t in enumerate(likeliest)]
    right[0] = []
    (tmp_path / "real.json").write_text(json.dumps(right))
    flags += [f"--config.data.labels={tmp_path}/real.json"]
    result, _, err = evaluate(capfd, run, *flags)
    assert result["count"] == 29 and "1 of 30 images do not count" in err
    assert result["top1_error"] == pytest.approx(100 * 14 / 29)  # the even ones without the first
