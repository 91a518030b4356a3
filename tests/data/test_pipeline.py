"""The pipeline: every image once an epoch, on any number of processes, whole or not."""

import collections
import functools
import gc
import pathlib
import re
import shutil
import weakref

import hypothesis
import hypothesis.strategies as st
import numpy as np
import psutil
import pytest
from ml_collections import ConfigDict
from PIL import Image

from inception.data import cropping, folders, pipeline, sources
from tests import tiny

PX = 8


@functools.cache
def plain_config() -> ConfigDict:
    return tiny.config(
        "--config.data.area_range=(.5,1.)",
        "--config.data.aspect_range=(.75,1.33)",
        "--config.data.mirror=True",
        "--config.data.interpolations=('bilinear','cubic')",
        "--config.data.max_megapixels=10.",
    )


def train_batches(
    source, *, px=PX, batch_size=6, classes=10, decoder="fast", start_step=0, total_steps=4, bits=0,
    **share,
):  # fmt: skip
    config = plain_config().copy_and_resolve_references()
    config.input_px = config.data.resize_px = px
    config.optim.batch_size, config.model.classes = batch_size, classes
    config.data.decoder, config.data.bits = decoder, bits
    return pipeline.training_batches(
        config, source, start_step=start_step, total_steps=total_steps, **share
    )


def eval_batches(source, **changes):
    choices = {"batch_size": 8, "classes": 10, "workers": 2}
    choices |= {"views": cropping.Views((1,), PX, PX, "short")}
    return pipeline.evaluation_batches(source, max_megapixels=10.0, **{**choices, **changes})


def remarks(*splits: sources.Source, bits: int = 0) -> list[str]:
    return pipeline.remarks(*splits, bits=bits, where="SET")


def test_bits_that_are_not_in_use_are_named_once(xrays: pathlib.Path) -> None:
    splits = [folders.folder(str(xrays), split) for split in ("train", "val")]
    over, bits = remarks(*splits)
    assert over == "passed over, for they are no pictures: 3 .mp4"
    match = (
        r"WARNING: pictures of 16 bits in SET use 12 of them \(greatest number seen: 4,09\d\)\. If "
        r"that is their range give --config\.data\.bits=12, if they are dark --config\.data\.bits=16"
    )
    assert re.fullmatch(match, bits)
    assert remarks(*splits, bits=12) == remarks(*splits, bits=16) == [over]


def test_what_uses_its_bits_or_has_eight_is_not_remarked_on(photos: pathlib.Path) -> None:
    assert remarks(sources.digits("test"), sources.synthetic("train", 9, 3)) == []
    grey = np.full((9, 9), 255 * 257, np.uint16)  # one bright picture among those looked at
    for path in photos.rglob("5.png"):
        Image.fromarray(grey // (1 + 99 * ("cat" in str(path)))).save(path)
    for path in photos.rglob("*.*"):
        if path.name not in ("3.png", "5.png"):
            path.unlink()
    assert remarks(folders.folder(str(photos), "all")) == []
    (photos / "ant/3.png").write_bytes(b"no picture")
    for path in photos.rglob("5.png"):
        Image.fromarray(grey // 99).save(path)
    assert "use 10 of them" in remarks(folders.folder(str(photos), "all"))[0]


def test_batches_are_of_the_bits_in_use(xrays: pathlib.Path) -> None:
    source = folders.folder(str(xrays), "train")
    for path in xrays.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * 16).save(path.with_suffix(".sixteen"), "PNG")

    def sixteen(index: int) -> tuple[bytes, int]:
        label = source[index][1]
        return pathlib.Path(source.name(index)).with_suffix(".sixteen").read_bytes(), label

    full = sources.Examples(source.classes, len(source), sixteen, source.name)
    pairs = zip(train_batches(source, bits=12), train_batches(full), strict=True)
    for (batch, damaged), (wanted, _) in pairs:
        assert not damaged and batch["image"].max() > 100
        np.testing.assert_array_equal(batch["image"], wanted["image"])
    for batch, wanted in zip(eval_batches(source, bits=12), eval_batches(full), strict=True):
        np.testing.assert_array_equal(batch["image"], wanted["image"])
    for path in xrays.rglob("*.png"):  # beyond the bits: damage, not a wrong picture
        shutil.copy(path.with_suffix(".sixteen"), path)
    with tiny.refused(r"every image is damaged; .* has 16 bits, not config\.data\.bits=12"):
        next(train_batches(source, bits=12))
    with tiny.refused(r"has 16 bits, not config\.data\.bits=12\. Evaluation skips no image"):
        next(eval_batches(source, bits=12))


@hypothesis.given(
    examples=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 5)
)
def test_every_example_once_an_epoch(examples: int, batch_size: int, seed: int) -> None:
    steps = -(-3 * examples // batch_size)
    order = functools.partial(pipeline.epoch_order, seed, examples)
    visits = np.concatenate(
        [pipeline.batch_indices(order, s, batch_size, examples) for s in range(steps)]
    )
    epochs = [visits[e * examples : (e + 1) * examples] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(examples))
    if examples > 20:
        assert (epochs[0] != epochs[1]).any()


def test_repeated_examples_follow_each_other() -> None:
    order = functools.partial(pipeline.epoch_order, 0, 10)
    take = functools.partial(pipeline.batch_indices, order, batch_size=6, examples=10)
    got = np.concatenate([take(step, repeats=3) for step in range(5)])
    np.testing.assert_array_equal(got, np.repeat(order(0), 3))


def test_the_size_of_a_batch_is_a_function_of_the_step(photos: pathlib.Path) -> None:
    config = tiny.config(
        "--config.data.source=folder", f"--config.data.path={photos}", "--config.train.sizes=(33,0,40)",
        "--config.data.eval_split=val", "--config.model.heads=False", "--config.optim.batch_size=4",
    )  # fmt: skip
    source = pipeline.open_split(config, "train")

    def batches(start: int) -> list[np.ndarray]:
        made = pipeline.training_batches(config, source, start_step=start, total_steps=6)
        return [batch["image"] for batch, _ in made]

    whole = batches(0)
    assert [images.shape[1] for images in whole] == [33, 33, 65, 65, 40, 40]
    for again, images in zip(batches(3), whole[3:], strict=True):
        np.testing.assert_array_equal(again, images)


class Numbered:
    """Example i is an image with i written into its pixels."""

    classes = ("one",)

    def __init__(self, examples: int):
        self.examples = examples

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int):
        return np.full((PX, PX, 3), index, np.uint8), 0

    def name(self, index: int) -> str:
        return f"number {index}"


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    processes=st.integers(1, 5),
    share=st.integers(1, 9),
    start=st.integers(0, 5),
    examples=st.integers(1, 40),
)
def test_processes_and_resumes_see_what_one_unbroken_run_sees(
    processes: int, share: int, start: int, examples: int
) -> None:
    source = Numbered(examples)
    choices = {"batch_size": share * processes, "total_steps": 7}
    unbroken = [b for b, _ in train_batches(source, **choices)]
    visits = np.concatenate([b["image"][:, 0, 0, 0] for b in unbroken])
    for first in range(0, len(visits) - examples + 1, examples):
        assert sorted(visits[first : first + examples]) == list(range(examples))
    whole = unbroken[start:]
    parts = zip(
        *(
            train_batches(source, **choices, start_step=start, process=p, processes=processes)
            for p in range(processes)
        ),
        strict=True,
    )
    joined = [
        {key: np.concatenate([b[key] for b, _ in shares]) for key in ("image", "label")}
        for shares in parts
    ]
    assert len(joined) == len(whole)
    for a, b in zip(whole, joined, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        assert a["image"].dtype == np.uint8 and a["label"].dtype == np.int32


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("examples", [1, 7, 8, 9, 30])
def test_evaluation_covers_the_split_exactly_once(processes: int, examples: int) -> None:
    seen: collections.Counter = collections.Counter()
    counts = set()
    for p in range(processes):
        batches = list(eval_batches(Numbered(examples), process=p, processes=processes))
        counts.add(len(batches))
        for batch in batches:
            real = batch["index"] >= 0
            seen.update(batch["index"][real].tolist())
            np.testing.assert_array_equal(batch["image"][real, 0, 0, 0], batch["index"][real])
            assert batch["image"].shape == (8 // processes, PX, PX, 3)
    assert seen == {i: 1 for i in range(examples)}
    assert counts == {-(-examples // 8)}  # every process takes part in every step


def test_damaged_images_are_skipped_counted_and_named_in_training(photos: pathlib.Path) -> None:
    (photos / "ant" / "0.jpeg").write_bytes(b"")
    (photos / "bee" / "1.jpeg").write_text("text")
    (photos / "cat" / "2.jpeg").unlink()
    (photos / "cat" / "2.jpeg").symlink_to("nowhere")
    shutil.copytree(photos, photos.parent / "set" / "train", symlinks=True)
    source = sources.open_source("folder", path=str(photos.parent / "set"), split="train")
    damaged: set[str] = set()
    for batch, lines in train_batches(source, total_steps=5):
        assert batch["image"].shape == (6, PX, PX, 3)
        damaged |= set(lines)
    assert sorted(line.split("/")[-2] for line in damaged) == ["ant", "bee", "cat"]
    assert any("0.jpeg: an empty file" in line for line in damaged)


def test_damaged_images_are_an_error_in_evaluation(photos: pathlib.Path) -> None:
    (photos / "bee" / "1.jpeg").write_bytes((photos / "bee" / "1.jpeg").read_bytes()[:300])
    shutil.copytree(photos, photos.parent / "set" / "test")
    source = sources.open_source("folder", path=str(photos.parent / "set"), split="test")
    with tiny.refused(r"bee/1\.jpeg: .*must be exact: repair or remove the file"):
        list(eval_batches(source))


def test_a_set_of_damaged_images_alone_ends(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.jpg").write_bytes(b"")
    source = sources.open_source("folder", path=str(tmp_path), split="train")
    with tiny.refused("every image is damaged"):
        list(train_batches(source))


def test_a_label_out_of_range_names_the_image_and_the_knob() -> None:
    source = sources.digits("test")
    with tiny.refused(r"digit \d+: label \d is out of range for config\.model\.classes=3"):
        list(train_batches(source, classes=3, total_steps=20))
    with tiny.refused(r"config\.model\.classes=3"):
        list(eval_batches(source, classes=3))


def test_a_batch_keeps_its_memory_while_anyone_holds_it() -> None:
    import jax

    batches = train_batches(Numbered(40), total_steps=200)
    first = next(batches)[0]["image"]
    view, on_device = first[1:3, 2], jax.device_put(first)
    before = first.copy()
    address, kept = first.__array_interface__["data"][0], weakref.ref(first)
    del first
    seen = {next(batches)[0]["image"].__array_interface__["data"][0] for _ in range(60)}
    assert address not in seen
    np.testing.assert_array_equal(view, before[1:3, 2])
    np.testing.assert_array_equal(on_device, before)
    del view, on_device
    jax.device_put(0).block_until_ready()  # JAX lets go of arrays at its next call
    gc.collect()
    assert kept() is None  # nobody holds it


@pytest.mark.faults
def test_nothing_leaks_over_ten_thousand_batches(photos: pathlib.Path) -> None:
    source = sources.open_source("folder", path=str(photos), split="train")
    (pathlib.Path(source.name(3))).write_bytes(b"damaged")
    batches = train_batches(source, total_steps=10_000, batch_size=4, px=64)
    used = []
    for step, _ in enumerate(batches):
        if step % 2000 == 1999:
            used.append(psutil.Process().memory_info().rss / 1e6)
    assert len(used) == 5
    assert used[-1] - used[0] < 20, used  # MB; the batches between are 390


def test_shared_photos_are_read(shared_data: pathlib.Path) -> None:
    """The 600 + 150 photos a class of imagenette, some of them grey."""
    path = str(shared_data / "imagenette")
    train = sources.open_source("folder", path=path, split="train")
    val = sources.open_source("folder", path=path, split="val")
    assert (len(train), len(val), len(train.classes)) == (6000, 1500, 10)
    batch, damaged = next(train_batches(train))
    assert batch["image"].std() > 30 and not damaged
