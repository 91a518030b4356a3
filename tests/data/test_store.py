"""The store: the same images, smaller; read by threads, in rows; damage is named."""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from inception.data import decoding, folders, prepare, sources, store
from tests import tiny
from tests.data.test_pipeline import eval_batches, train_batches

SHORT_SIDE = 48


def write(source: pathlib.Path, output: pathlib.Path, **changes) -> dict:
    choices = {"tars": "", "name": "", "short_side": SHORT_SIDE, "quality": 90, "format": "jpeg"}
    return prepare.prepare(**{**choices, "source": str(source), "output": str(output), **changes})


def write_store(splits: dict, folder: pathlib.Path, *, format: str) -> None:
    folder.mkdir(exist_ok=True)
    encoding = store.Encoding(short_side=SHORT_SIDE, quality=90, format=format)
    store.write_store(splits, folder, encoding, origin="here")


def open_store(path: pathlib.Path, split: str = "train") -> sources.Source:
    return sources.open_source("store", path=str(path), split=split)


def examples(source: sources.Source) -> list[tuple[decoding.Record, int]]:
    return [source[i] for i in range(len(source))]


def pixels_of(record: decoding.Record) -> np.ndarray:
    return np.asarray(decoding.decode(record, "it", max_megapixels=1.0))


def original(path: str) -> Image.Image:
    with Image.open(path) as image:
        if image.mode == "I;16":
            return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def smooth(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    coarse = rng.integers(64, 192, (3, 3, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def smooth_photos(tmp_path: pathlib.Path, rng: np.random.Generator) -> pathlib.Path:
    """Two classes of six photos like those of a camera, half of them smaller than the store's."""
    for name in ("left", "right"):
        (tmp_path / "smooth" / name).mkdir(parents=True)
        for i in range(6):
            width, height = rng.integers(*((50, 250) if i % 2 else (20, 47)), 2)
            smooth(rng, width, height).save(tmp_path / "smooth" / name / f"{i}.png")
    return tmp_path / "smooth"


@pytest.mark.parametrize("format", store.FORMATS)
def test_a_store_has_the_folders_examples_in_the_folders_order(
    photos: pathlib.Path, tmp_path: pathlib.Path, format: str
) -> None:
    result = write(photos, tmp_path / "out", format=format)
    assert result == {"splits": {"train": 24, "val": 6}, "rejected": []}
    for split in ("train", "val"):
        folder = sources.open_source("folder", path=str(photos), split=split)
        stored = open_store(tmp_path / "out", split)
        assert len(stored) == len(folder) and stored.classes == ("ant", "bee", "cat")
        for i in range(len(folder)):
            record, label = stored[i]
            pixels, (width, height) = pixels_of(record), original(folder.name(i)).size
            assert label == folder[i][1]
            short = min(SHORT_SIDE, width, height)
            assert min(pixels.shape[:2]) == short
            exact = np.multiply((height, width), short / min(width, height))
            np.testing.assert_allclose(pixels.shape[:2], exact, atol=0.501)
            assert f"{split} record {i}" in stored.name(i)
    names = {"store.json", "train.bin", "train.npz", "val.bin", "val.npz"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    assert not (tmp_path / "out.incomplete").exists()


def test_jpegs_are_close_to_pillows_resize_and_closer_with_more_quality(
    smooth_photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    worst = {}
    for quality in (50, 95):
        write(smooth_photos, tmp_path / f"{quality}", quality=quality)
        decibels = []
        for split in ("train", "val"):
            folder = folders.folder(str(smooth_photos), split)
            stored = open_store(tmp_path / f"{quality}", split)
            for i in range(len(folder)):
                found = pixels_of(stored[i][0]).astype(float)
                size = found.shape[1::-1]
                wanted = original(folder.name(i)).resize(size, Image.Resampling.BICUBIC)
                decibels.append(10 * np.log10(255**2 / np.mean((found - wanted) ** 2)))
        worst[quality] = min(decibels)
    assert worst[95] > 36 and worst[95] > worst[50] + 3, worst


def test_rgb_is_pillows_resize_bit_for_bit_and_small_images_stay(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write(photos, tmp_path / "out", format="rgb")
    small = 0
    for split in ("train", "val"):
        folder = folders.folder(str(photos), split)
        stored = open_store(tmp_path / "out", split)
        for i in range(len(folder)):
            wanted, record = original(folder.name(i)), stored[i][0]
            if min(wanted.size) > SHORT_SIDE:
                wanted = wanted.resize(record.shape[1::-1], Image.Resampling.BICUBIC)
            else:
                small += 1
            assert record.shape == np.asarray(wanted).shape
            np.testing.assert_array_equal(record, wanted)
    assert 0 < small < 30


class Numbered:
    """Image i has i and the row in its pixels; its size and its label follow from i."""

    classes = tuple("abcdefg")

    def __len__(self) -> int:
        return 4000

    def __getitem__(self, index: int):
        pixels = np.empty((8 + index % 3, 8 + index % 5, 3), np.uint8)
        pixels[...] = index // 256, index % 256, 0
        pixels[..., 2] = np.arange(len(pixels))[:, None]
        return pixels, index % 7

    def name(self, index: int) -> str:
        return f"number {index}"


@pytest.fixture(scope="module")
def rgb_store(tmp_path_factory: pytest.TempPathFactory) -> sources.Source:
    folder = tmp_path_factory.mktemp("numbered")
    write_store({"train": Numbered()}, folder, format="rgb")
    return open_store(folder)


@hypothesis.given(index=st.integers(0, 3999), first=st.integers(-9, 9), last=st.integers(-9, 12))
def test_some_rows_are_the_images_rows_and_cannot_be_written(
    rgb_store: sources.Source, index: int, first: int, last: int
) -> None:
    record, whole = rgb_store[index][0], Numbered()[index][0]
    for rows in (slice(first, last), slice(first, None), slice(last)):
        np.testing.assert_array_equal(record[rows], whole[rows])
    with pytest.raises(ValueError, match="read-only"):
        record[0] = 0


class Listed:
    """Records in memory."""

    classes = ("ant", "bee", "cat")

    def __init__(self, records: list):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int):
        return self.records[index]

    def name(self, index: int) -> str:
        return f"number {index}"


@pytest.mark.parametrize("format", store.FORMATS)
@pytest.mark.parametrize("decoder", ["fast", "exact"])
def test_training_sees_a_stores_images_as_it_sees_them_in_memory(
    photos: pathlib.Path, tmp_path: pathlib.Path, format: str, decoder: str
) -> None:
    write(photos, tmp_path / "out", format=format)
    stored = open_store(tmp_path / "out")
    in_memory = Listed(
        [(r if isinstance(r, bytes) else np.array(r), label) for r, label in examples(stored)]
    )
    choices = {"decoder": decoder, "total_steps": 5}
    pairs = zip(train_batches(stored, **choices), train_batches(in_memory, **choices), strict=True)
    for (batch, damaged), (wanted, _) in pairs:
        assert not damaged and batch["image"].std() > 10
        np.testing.assert_array_equal(batch["image"], wanted["image"])
        np.testing.assert_array_equal(batch["label"], wanted["label"])


@pytest.mark.parametrize("format", store.FORMATS)
def test_evaluation_of_a_store_of_whole_images_is_that_of_the_folder(
    photos: pathlib.Path, tmp_path: pathlib.Path, format: str
) -> None:
    write(photos, tmp_path / "out", short_side=1000, quality=100, format=format)
    folder = sources.open_source("folder", path=str(photos), split="train")
    pairs = zip(eval_batches(open_store(tmp_path / "out")), eval_batches(folder), strict=True)
    for batch, wanted in pairs:
        np.testing.assert_array_equal(batch["label"], wanted["label"])
        np.testing.assert_array_equal(batch["index"], wanted["index"])
        apart = np.abs(batch["image"].astype(int) - wanted["image"])
        assert apart.mean() < 2 if format == "jpeg" else not apart.any()


def test_a_store_of_twelve_bits_trains_with_twelve(
    xrays: pathlib.Path, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture
) -> None:
    write(xrays, tmp_path / "dark")
    err = capfd.readouterr().err
    assert err.count("passed over, for they are no pictures: 3 .mp4") == 1
    assert err.count("WARNING") == 1 and "use 12 of them" in err and "give --bits=12," in err
    write(xrays, tmp_path / "out", bits=12, format="rgb")
    assert "WARNING" not in capfd.readouterr().err
    folder = folders.folder(str(xrays), "train")
    stored = sources.open_source("store", path=str(tmp_path / "out"), split="train", bits=12)
    for i in range(len(folder)):
        seen = decoding.decode(folder[i][0], "it", max_megapixels=1.0, bits=12)
        np.testing.assert_array_equal(stored[i][0], seen)
    # A run on it has the knob: what it trains sees other pictures as these were seen.
    match = r"config\.data\.bits=0, and .* pictures of 12: give --config\.data\.bits=12$"
    with tiny.refused(match):
        open_store(tmp_path / "out")
    with tiny.refused(r"config\.data\.bits=12, and .* of 16: give --config\.data\.bits=16$"):
        sources.open_source("store", path=str(tmp_path / "dark"), split="train", bits=12)


def test_a_damaged_photo_is_left_out_and_named_and_the_others_stay(
    photos: pathlib.Path, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture
) -> None:
    write(photos, tmp_path / "whole")
    whole = open_store(tmp_path / "whole")
    folder = folders.folder(str(photos), "train")
    spoilt = [pathlib.Path(folder.name(i)) for i in (0, 9, 23)]
    spoilt[0].write_bytes(b"")
    spoilt[1].write_bytes(spoilt[1].read_bytes()[:200])
    spoilt[2].unlink()
    spoilt[2].symlink_to("nowhere")
    capfd.readouterr()
    result = write(photos, tmp_path / "out")
    err = capfd.readouterr().err
    assert result["splits"] == {"train": 21, "val": 6}
    assert len(result["rejected"]) == 3
    for path, line in zip(spoilt, result["rejected"], strict=True):
        assert line.startswith(f"{path}: ") and "\n" not in line and line in err
    about = json.loads((tmp_path / "out" / "store.json").read_text())
    assert about["rejected"] == result["rejected"]
    stored = open_store(tmp_path / "out")
    kept = [example for i, example in enumerate(examples(whole)) if i not in (0, 9, 23)]
    assert examples(stored) == kept


def test_a_set_of_damaged_images_alone_is_no_store(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for path in photos.rglob("*.*"):
        path.write_text("text")
    with tiny.refused("every sampled image is damaged"):
        write(photos, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_validation_may_lack_a_class_and_training_may_not(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for split in ("train", "val"):
        shutil.copytree(photos, tmp_path / "set" / split)
    shutil.rmtree(tmp_path / "set" / "val" / "bee")
    assert write(tmp_path / "set", tmp_path / "store")["splits"] == {"train": 30, "val": 20}
    stored = store.open_store(str(tmp_path / "store"), "val")
    assert stored.classes == ("ant", "bee", "cat") and set(stored.labels.tolist()) == {0, 2}
    shutil.copytree(photos / "bee", tmp_path / "set" / "val" / "dog")
    with tiny.refused("dog is none of the 3 classes"):
        write(tmp_path / "set", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_picture_too_long_for_a_jpeg_is_left_out(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    strip = photos / "ant" / "strip.png"
    Image.new("RGB", (70_000, 3)).save(strip)
    result = write(photos, tmp_path / "out")
    assert sum(result["splits"].values()) == 30
    assert len(result["rejected"]) == 1 and result["rejected"][0].startswith(f"{strip}: ")


@pytest.mark.parametrize("format", store.FORMATS)
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    photos: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    for threads in (1, 4):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=threads: range(n), raising=False)
        splits = {split: folders.folder(str(photos), split) for split in ("train", "val")}
        write_store(splits, tmp_path / f"{threads}", format=format)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "4" / path.name).read_bytes(), path.name


def about_with(**changes):
    def spoil(root: pathlib.Path) -> None:
        about = json.loads((root / "store.json").read_text())
        (root / "store.json").write_text(json.dumps({**about, **changes}))

    return spoil


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (about_with(version=99), r"another version .*99.*prepare it again"),
        (lambda root: (root / "store.json").write_text("[]"), r"prepare"),
        (lambda root: (root / "store.json").write_text("{"), r"no store .*prepare --short_side"),
        (lambda root: (root / "store.json").unlink(), r"no store .*prepare --short_side"),
        (lambda root: shutil.rmtree(root), r"no store .*prepare --short_side"),
        (lambda root: os.truncate(root / "train.bin", 999), r"train\.bin has 999 bytes .*again"),
        (lambda root: (root / "train.bin").unlink(), r"damaged .*train\.bin.*prepare it again"),
        (lambda root: (root / "train.npz").unlink(), r"damaged .*train\.npz.*prepare it again"),
        (lambda root: os.truncate(root / "train.npz", 0), r"damaged .*prepare it again"),
        (lambda root: os.truncate(root / "train.npz", 99), r"damaged .*prepare it again"),
        (lambda root: np.savez(root / "train.npz", labels=[0]), r"damaged .*prepare it again"),
    ],
)
def test_what_is_no_whole_store_is_named_with_the_remedy(
    photos: pathlib.Path, tmp_path: pathlib.Path, spoil, message: str
) -> None:
    write(photos, tmp_path / "out")
    spoil(tmp_path / "out")
    with tiny.refused(message) as caught:
        open_store(tmp_path / "out")
    assert str(tmp_path / "out") in str(caught.value) and "\n" not in str(caught.value)


def test_a_split_that_is_not_there_is_named(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    write(photos, tmp_path / "out")
    where = re.escape(str(tmp_path / "out"))
    with tiny.refused(rf"no split 'test' in {where}; there are train, val"):
        open_store(tmp_path / "out", "test")


@pytest.mark.parametrize("decoder", ["fast", "exact"])
def test_images_that_a_bad_disk_spoils_are_named_in_training_and_evaluation(
    photos: pathlib.Path, tmp_path: pathlib.Path, decoder: str
) -> None:
    write(photos, tmp_path / "out")
    with np.load(tmp_path / "out" / "train.npz") as index:
        offsets = index["offsets"].tolist()
    with (tmp_path / "out" / "train.bin").open("r+b") as file:
        for start, end in (offsets[3:5], offsets[7:9]):
            file.seek(start)
            file.write(bytes(end - start))
    stored = open_store(tmp_path / "out")
    damaged: set[str] = set()
    for _, lines in train_batches(stored, decoder=decoder, total_steps=8):
        damaged |= set(lines)
    assert damaged == {f"{tmp_path / 'out'}/train record {i}: not an image" for i in (3, 7)}
    with tiny.refused(r"train record 3: .*must be exact: repair or remove the file"):
        list(eval_batches(stored))


def test_threads_that_read_at_once_get_the_records_they_asked_for(
    rgb_store: sources.Source,
) -> None:
    numbered = Numbered()
    assert len(rgb_store) == len(numbered)

    def wrong(seed: int) -> list[int]:
        order = np.random.default_rng(seed).permutation(len(numbered)).tolist()
        triples = ((i, rgb_store[i], numbered[i]) for i in order)
        return [
            i
            for i, (record, label), (pixels, wanted) in triples
            if label != wanted or not np.array_equal(record, pixels)
        ]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(wrong, range(8))) == [[]] * 8
