"""`launch.py prepare`: bad input in one line, all or nothing, ImageNet's tars to the end."""

import collections
import functools
import importlib.util
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

import launch
from inception.data import decoding, prepare, sources
from inception.data.whole import all_or_nothing
from tests import tiny
from tests.cli.test_cli import ENVIRONMENT, ROOT, fails, process

FLAGS = ("tars", "name", "source", "output", "short_side", "quality", "format")
STRAYS = {"n01739381": "n01739381_1309.JPEG", "n02105855": "n02105855_2933.JPEG"}


def run(output: pathlib.Path, **changes) -> dict:
    choices = {"tars": "", "name": "", "source": "", "short_side": 16, "quality": 90}
    return prepare.prepare(**{**choices, "output": str(output), "format": "jpeg", **changes})


def refused(output: pathlib.Path, message: str, **changes) -> None:
    """A prepare that must fail with this one line, and leave nothing."""
    with tiny.refused(message, *FLAGS) as caught:
        run(output, **changes)
    assert "\n" not in str(caught.value)
    nothing_at(output)


def nothing_at(output: pathlib.Path) -> None:
    assert not output.exists() and not output.with_name(f"{output.name}.incomplete").exists()


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# The flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --tars, --name or both; or else --source"),
        (("--tars=t", "--source=s"), "give --tars, --name or both; or else --source"),
        (("--name=mnist", "--source=s", "--short_side=8"), "give --tars, --name or both"),
        (("--source=s",), "give --short_side"),
        (("--source=s", "--short_side=8", "extra"), "unknown flag extra"),
        (("--source=s", "--shortside=8"), "unknown flag --shortside"),
    ],
)
def test_flags_that_do_not_go_together_are_the_command_lines_error(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture, flags: tuple[str, ...], message: str
) -> None:
    args = ["prepare", f"--output={tmp_path / 'out'}", *flags]
    assert message in fails(capfd, args, status=2)
    nothing_at(tmp_path / "out")


@pytest.mark.parametrize(
    "flag",
    [
        "--format=png", "--short_side=small", "--short_side=1.5", "--short_side=0",
        "--short_side=-8", "--quality=", "--quality=0", "--quality=101",
    ],
)  # fmt: skip
def test_flags_of_impossible_values_exit_with_2(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture, flag: str
) -> None:
    args = ["prepare", f"--output={tmp_path / 'out'}", "--source=s", "--short_side=8", flag]
    with pytest.raises(SystemExit) as caught:
        launch.main(args)
    assert caught.value.code == 2
    assert flag.split("=")[0] in capfd.readouterr().err.splitlines()[-1]
    nothing_at(tmp_path / "out")


def test_a_source_that_is_no_folder_of_images_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("file", "file: no such folder"),
        ("nowhere", "nowhere: no such folder"),
        ("empty", "empty has no class folders"),
    ):
        refused(tmp_path / "out", message, source=str(tmp_path / name))


def test_an_output_that_is_not_new_is_left_as_it_is(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for output, message in (
        (tmp_path / "full", "full is not empty: choose a new folder"),
        (tmp_path / "file", "file is not empty: choose a new folder"),
        (tmp_path / "file" / "out", "out cannot be written"),
    ):
        with tiny.refused(f"--output=.*{message}", *FLAGS):
            run(output, source=str(photos))
    assert (tmp_path / "full" / "mine").read_text() == (tmp_path / "file").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"full", "file", "photos"}


def test_an_output_that_has_no_name_is_an_error_of_one_line(
    photos: pathlib.Path, capfd: pytest.CaptureFixture
) -> None:
    flags = [f"--source={photos}", "--short_side=8"]
    for output in ("/", "~no-such-user/out"):
        line = fails(capfd, ["prepare", f"--output={output}", *flags], status=1)
        assert f"--output={output}" in line


@pytest.mark.parametrize("link", [False, True])
def test_an_empty_folder_there_already_or_a_link_to_one_is_filled(
    photos: pathlib.Path, tmp_path: pathlib.Path, link: bool
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    run(tmp_path / ("link" if link else "empty"), source=str(photos))
    run(tmp_path / "new", source=str(photos))
    assert contents(tmp_path / "empty") == contents(tmp_path / "new")
    assert {p.name for p in tmp_path.iterdir()} == {"empty", "link", "new", "photos"}


def test_two_at_once_do_not_mix(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output, work = tmp_path / "out", tmp_path / "out.incomplete"
    with all_or_nothing(str(output)) as first:
        (first / "half").write_text("done")
        with tiny.refused("another process is writing there", *FLAGS):
            run(output, source=str(photos))
        assert (work / "half").exists() and not output.exists()
    assert [p.name for p in output.iterdir()] == ["half"] and not work.exists()


def test_what_an_interrupted_start_has_left_goes(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run(tmp_path / "whole", source=str(photos))
    left = tmp_path / "out.incomplete"
    (left / "folder" / "folder").mkdir(parents=True)
    (left / "train.bin").write_bytes(b"half")
    (left / "test.bin").write_bytes(b"half")
    with tiny.refused("out.incomplete holds foreign files", *FLAGS):
        run(tmp_path / "out", source=str(photos))
    assert (left / "train.bin").exists()  # no start wrote them
    (left / ".incomplete").touch()
    run(tmp_path / "out", source=str(photos))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not left.exists()


def test_too_small_a_disk_is_told_before_the_work(
    photos: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    message = r"--output: train needs about .* GB and .* has 0\.0 GB free: choose another disk"
    refused(tmp_path / "out", message, source=str(photos))
    write_tars(tmp_path / "tars", {"a": [photo(0)], "b": [photo(1)]}, [photo(2)])
    with (
        tiny.refused(r"preparing takes about .* 0\.0 GB free: choose another", *FLAGS),
        all_or_nothing(str(tmp_path / "out")) as work,
    ):
        prepare._check_tars(str(tmp_path / "tars"), ["a", "b"], work)
    nothing_at(tmp_path / "out")


def test_without_tensorflow_the_extra_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find(name)
    )
    refused(tmp_path / "out", r"TensorFlow.* not installed .*'\.\[prepare\]'", tars=str(tmp_path))


# The tars


def photo(number: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A photo of 32 x 24 px or the like; its mean colour is `mean_color(number)`."""
    width, height = 32 + number % 5, 24 + number % 7
    noise = np.random.default_rng(number).integers(-8, 8, (3, 4, 3), endpoint=True)
    noise = np.concatenate([noise, -noise])
    pixels = np.kron(noise, np.ones((8, 8, 1), int)) + mean_color(number)
    image = Image.fromarray(pixels.astype(np.uint8)).resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def mean_color(number: int) -> np.ndarray:
    return np.asarray([number % 13, number // 13 % 13, number // 169 % 13]) * 19 + 10


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def class_tar(photos: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in photos.items():
            add(tar, name, data)
    return buffer.getvalue()


def write_tars(root: pathlib.Path, train: dict, val: list[bytes]) -> pathlib.Path:
    """ImageNet's two tars; of a class its photos in order, or by name, or the tar as it is."""
    root.mkdir()
    with tarfile.open(root / prepare.TARS[0], "w") as tar:
        for name, photos in train.items():
            if isinstance(photos, list):
                photos = {f"{name}_{i}.JPEG": data for i, data in enumerate(photos)}
            data = photos if isinstance(photos, bytes) else class_tar(photos)
            add(tar, f"{name}.tar", data)
    with tarfile.open(root / prepare.TARS[1], "w") as tar:
        for i, data in enumerate(val):
            add(tar, f"ILSVRC2012_val_{i + 1:08d}.JPEG", data)
    return root


def swap(tars: pathlib.Path) -> None:
    train, val = (tars / name for name in prepare.TARS)
    train.rename(tars / "other")
    val.rename(train)
    (tars / "other").rename(val)


def cut(name: str, size: int):
    return lambda tars: os.truncate(tars / name, size)


TRAIN, VAL = prepare.TARS


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tars: shutil.rmtree(tars), rf"tars: there is no {TRAIN} in it: .*image-net\.org"),
        (lambda tars: (tars / VAL).unlink(), rf"tars: there is no {VAL} in it: .*image-net\.org"),
        (cut(TRAIN, 0), rf"{TRAIN} is truncated, or no tar .*: download it again"),
        (cut(TRAIN, 700), rf"{TRAIN} is truncated, or no tar .*: download it again"),
        (cut(VAL, 1000), rf"{VAL} is truncated, or no tar .*: download it again"),
        (lambda tars: (tars / VAL).write_bytes(b"a web page"), rf"{VAL} is truncated, or no tar"),
        (lambda tars: tarfile.open(tars / VAL, "w").close(), rf"{VAL} .*has nothing in it"),
        (swap, r"should hold one tar a class and has ILSVRC2012_val_00000001\.JPEG .*swapped"),
        (lambda tars: shutil.copy(tars / TRAIN, tars / VAL), rf"{VAL} should hold JPEG .* a\.tar"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_tars_is_named(tmp_path: pathlib.Path, spoil, message: str) -> None:
    tars = write_tars(tmp_path / "tars", {"a": [photo(0)], "b": [photo(1)]}, [photo(2)])
    prepare._check_tars(str(tars), ["a", "b"], tmp_path)
    spoil(tars)
    with (
        tiny.refused(message, *FLAGS) as caught,
        all_or_nothing(str(tmp_path / "out")) as work,
    ):
        prepare._check_tars(str(tars), ["a", "b"], work)
    assert "\n" not in str(caught.value)
    nothing_at(tmp_path / "out")


def test_tars_of_other_classes_are_named(tmp_path: pathlib.Path) -> None:
    tars = write_tars(tmp_path / "tars", {"a": [photo(0)], "b": [photo(1)]}, [photo(2)])
    for classes, message in (
        (["a", "b", "c"], "holds 2 classes of 3: c is missing"),
        (["b"], r"holds 2 classes of 1: a is none of ImageNet's"),
        (["b", "x"], r"a is none of ImageNet's"),
    ):
        with tiny.refused(message, *FLAGS):
            prepare._check_tars(str(tars), classes, tmp_path)


# Interrupted


@pytest.fixture
def many_photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """200 large photos, of which eight differ: seconds of work, and few bytes."""
    rng = np.random.default_rng(0)
    for i in range(200):
        path = tmp_path / "many" / "train" / "ab"[i % 2] / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < 8:
            coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8))
            coarse.resize((1400, 1050), Image.Resampling.BICUBIC).save(path)
        else:
            os.link(tmp_path / "many" / "train" / "ab"[i % 2] / f"{i % 8:03d}.jpg", path)
    return tmp_path / "many"


def interrupted(flags: list[str], output: pathlib.Path, number: int) -> tuple[int, str, str]:
    """A prepare that has the signal from itself, at photo 150 of 200; status, stdout, stderr."""
    script = f"""
import os, sys
import launch
from inception.cli.main import run_process
from inception.data import store
stored, probed = store.Encoding.stored, []
def and_signal(self, source, index):
    probed.append(index)
    if index == 150 and len(probed) > store.PROBES:
        os.kill(os.getpid(), {int(number)})
    return stored(self, source, index)
store.Encoding.stored = and_signal
run_process(launch.main, sys.argv[1:])
"""
    child = subprocess.run(
        [sys.executable, "-c", script, "prepare", *flags, f"--output={output}"],
        cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, timeout=900, check=False,
        # A shell's background jobs ignore ctrl-C, and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert child.returncode, "prepare ended as if no signal had come"
    return child.returncode, child.stdout, child.stderr


@pytest.mark.faults
def test_a_killed_prepare_leaves_no_output_and_the_next_makes_it_whole(
    many_photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags, output = [f"--source={many_photos}", "--short_side=256"], tmp_path / "out"
    status, _, _ = interrupted(flags, output, signal.SIGKILL)
    assert status == -signal.SIGKILL and not output.exists()
    assert (tmp_path / "out.incomplete").exists()
    again = process("prepare", *flags, f"--output={output}", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == {"splits": {"train": 200}, "rejected": []}
    assert not (tmp_path / "out.incomplete").exists()
    run(tmp_path / "unbroken", source=str(many_photos), short_side=256)
    assert contents(output) == contents(tmp_path / "unbroken")


@pytest.mark.faults
def test_ctrl_c_leaves_nothing_and_no_traceback(
    many_photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = [f"--source={many_photos}", "--short_side=256"]
    status, out, err = interrupted(flags, tmp_path / "out", signal.SIGINT)
    assert status == 1 and not out and "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("launch.py prepare: interrupted")
    nothing_at(tmp_path / "out")


# To the end, with TensorFlow

with_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="the extra 'prepare' is not installed"
)


@functools.cache
def listed(name: str) -> list[str]:
    """The lines of a file that TFDS has beside its ImageNet."""
    import tensorflow_datasets as tfds

    return tfds.core.tfds_path(f"datasets/imagenet2012/{name}.txt").read_text().split()


def class_names() -> list[str]:
    return listed("labels")


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One photo or two of each class, numbered by `train_numbers`; 20 to validate."""
    train = {}
    for name, numbers in train_numbers().items():
        train[name] = {f"{name}_{n}.JPEG": photo(n) for n in numbers}
        if name in STRAYS:
            train[name].popitem()
            kind, mode = ("JPEG", "CMYK") if name == "n01739381" else ("PNG", "RGB")
            train[name][STRAYS[name]] = photo(numbers[-1], kind, mode)
    root = tmp_path_factory.mktemp("imagenet") / "tars"
    return write_tars(root, train, [photo(2000 + i) for i in range(20)])


def train_numbers() -> dict[str, list[int]]:
    """The numbers of each class's photos: its label, and of every other class also label + 1000."""
    return {
        name: [label] if label % 2 and name not in STRAYS else [label, label + 1000]
        for label, name in enumerate(class_names())
    }


def numbered_labels(split: str) -> dict[int, int]:
    """The label of every photo's number."""
    if split == "validation":
        first = listed("validation_labels")[:20]  # in the order of the photos' names
        return {2000 + i: class_names().index(name) for i, name in enumerate(first)}
    numbers = enumerate(train_numbers().values())
    return {number: label for label, several in numbers for number in several}


def prepared(output: pathlib.Path, *flags: str) -> tuple[dict, str]:
    done = process("prepare", *flags, f"--output={output}", "--json")
    assert done.returncode == 0, done.stderr
    assert not output.with_name(f"{output.name}.incomplete").exists()
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def imagenet(
    tars: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, dict, str]:
    """TFDS's data folder, what prepare returned and what it said."""
    output = tmp_path_factory.mktemp("prepared") / "new" / "out"
    return output, *prepared(output, f"--tars={tars}")


def check_every_photo_is_there_with_its_label(source: sources.Source, split: str) -> None:
    labels = numbered_labels(split)
    numbers = np.asarray(list(labels))
    colors = np.asarray([mean_color(n) for n in numbers])
    seen: collections.Counter = collections.Counter()
    for i in range(len(source)):
        record, label = source[i]
        pixels = np.asarray(decoding.decode(record, source.name(i), max_megapixels=1.0))
        apart = np.abs(colors - pixels.mean((0, 1))).max(axis=1)
        assert apart.min() < 4, (split, i, apart.min())
        number = int(numbers[apart.argmin()])
        seen[number] += 1
        assert label == labels[number], (split, i, number)
    assert seen == dict.fromkeys(labels, 1)


@pytest.mark.slow
@with_tensorflow
def test_imagenets_tars_become_records_with_the_right_labels(imagenet) -> None:
    output, result, said = imagenet
    train, validation = (len(numbered_labels(split)) for split in ("train", "validation"))
    assert result == {"splits": {"train": train, "validation": validation}, "rejected": []}
    assert f"{train - 1_281_167} against ILSVRC-2012's 1281167" in said
    assert "-49980 against ILSVRC-2012's 50000" in said
    assert "Traceback" not in said
    for split in ("train", "validation"):
        source = sources.open_source("tfds", path=str(output), name="imagenet2012", split=split)
        assert list(source.classes) == class_names()
        check_every_photo_is_there_with_its_label(source, split)
        for i in range(len(source)):
            with Image.open(io.BytesIO(source[i][0])) as image:
                assert (image.format, image.mode) == ("JPEG", "RGB")
    assert "tensorflow" not in sys.modules


@pytest.mark.slow
@with_tensorflow
def test_a_store_is_the_same_from_the_records_and_from_the_tars(
    imagenet, tars: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    records, result, _ = imagenet
    (version,) = (records / "imagenet2012").iterdir()
    kept = contents(version)
    two_steps, _ = prepared(tmp_path / "two", f"--source={version}", "--short_side=16")
    one_step, _ = prepared(tmp_path / "one", f"--tars={tars}", "--short_side=16")
    assert two_steps == one_step == result
    assert contents(version) == kept
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    about = {key: json.loads(store.pop("store.json")) for key, store in (("1", one), ("2", two))}
    assert about["1"].pop("origin") == "imagenet2012" and about["2"].pop("origin") == str(version)
    assert about["1"] == about["2"] and about["1"]["classes"] == class_names()
    assert set(one) == {f"{s}.{kind}" for s in ("train", "validation") for kind in ("bin", "npz")}
    assert one == two
    for split in ("train", "validation"):
        stored = sources.open_source("store", path=str(tmp_path / "one"), split=split)
        check_every_photo_is_there_with_its_label(stored, split)


@pytest.mark.slow
@with_tensorflow
def test_a_misspelt_set_is_answered_with_the_nearest(tmp_path: pathlib.Path) -> None:
    done = process("prepare", "--name=imagenet2021", f"--output={tmp_path / 'out'}")
    assert done.returncode == 1 and not done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("launch.py prepare: --name=imagenet2021: ") and "imagenet2012" in last
    nothing_at(tmp_path / "out")


@pytest.mark.slow
@with_tensorflow
@pytest.mark.parametrize("name", ["imagenet2012:9.9.9", "imagenet2012/no_such_config"])
def test_a_version_that_is_not_there_is_an_error_of_one_line(
    tars: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    done = process("prepare", f"--name={name}", f"--tars={tars}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("launch.py prepare: ") and name in last
    nothing_at(tmp_path / "out")


@pytest.mark.faults
@with_tensorflow
def test_a_class_tar_cut_short_is_an_error_of_one_line(tmp_path: pathlib.Path) -> None:
    train: dict = {name: [photo(0)] for name in class_names()}
    train[class_names()[7]] = class_tar({"x.JPEG": photo(0)})[:700]
    tars = write_tars(tmp_path / "tars", train, [photo(0)])
    done = process("prepare", f"--tars={tars}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 1 and not done.stdout and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("launch.py prepare: TFDS could not prepare imagenet2012: ")
    nothing_at(tmp_path / "out")


@pytest.mark.slow
@with_tensorflow
def test_a_photo_that_cannot_be_read_is_named_and_left_out_of_the_store(
    tmp_path: pathlib.Path,
) -> None:
    train: dict = {name: [photo(0)] for name in class_names()}
    train[class_names()[7]] = [photo(0), b"this is a text", photo(0)[:-300]]
    tars = write_tars(tmp_path / "tars", train, [photo(0)])
    result, said = prepared(tmp_path / "records", f"--tars={tars}")
    assert result["splits"] == {"train": 1002, "validation": 1}
    assert len(result["rejected"]) == 2 and "2 cannot be read" in said
    for line in result["rejected"]:
        assert "of train: " in line and " object at 0x" not in line and line in said
    (version,) = (tmp_path / "records/imagenet2012").iterdir()
    store, _ = prepared(tmp_path / "store", f"--source={version}", "--short_side=16")
    assert store["splits"] == {"train": 1000, "validation": 1}
    assert len(store["rejected"]) == 2


@pytest.mark.faults
@with_tensorflow
def test_real_photos_are_all_prepared(shared_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """One photo of each of ImageNet's classes, of many sizes, some grey."""
    paths = sorted((shared_data / "imagenet-sample").glob("*.JPEG"))
    train = {p.name.split("_")[0]: {p.name: p.read_bytes()} for p in paths}
    assert len(train) == 1000
    tars = write_tars(tmp_path / "tars", train, [p.read_bytes() for p in paths[:20]])
    result, _ = prepared(tmp_path / "out", f"--tars={tars}")
    assert result == {"splits": {"train": 1000, "validation": 20}, "rejected": []}
    original = {p.read_bytes(): class_names().index(p.name.split("_")[0]) for p in paths}
    source = sources.open_source(
        "tfds", path=str(tmp_path / "out"), name="imagenet2012", split="train"
    )
    records = dict(source[i] for i in range(len(source)))
    assert records == original
    for record in records:
        decoding.decode(record, "it", max_megapixels=20.0)
