"""Sources and the loader: every image once an epoch, on any number of processes, whole or not."""

import collections
import io
import pathlib
import shutil
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from inception import UserError
from inception.data import images, loader, sampling, sources

PX = 8


def sampler(**changes) -> sampling.Sampler:
    choices = {
        "input_px": PX,
        "resize_px": PX,
        "area_range": (0.5, 1.0),
        "aspect_range": (0.75, 1.33),
    }
    return sampling.training_sampler(
        "inception", mirror=True, interpolations=("bilinear", "cubic"), **{**choices, **changes}
    )


def train_batches(source, **changes):
    choices = {"seed": 0, "start_step": 0, "total_steps": 4, "batch_size": 6, "classes": 10}
    return loader.train_batches(
        source,
        sample=sampler(),
        input_px=PX,
        decoder="fast",
        max_megapixels=10.0,
        workers=2,
        **{**choices, **changes},
    )


def eval_batches(source, **changes):
    def view(image: Image.Image) -> np.ndarray:
        return sampling.center_view(image, input_px=PX, resize_px=PX, resize="short")

    choices = {"batch_size": 8, "classes": 10, "workers": 2}
    return loader.eval_batches(
        source, view=view, input_px=PX, max_megapixels=10.0, **{**choices, **changes}
    )


# Sources


def test_digits_are_all_there_and_split_by_class() -> None:
    train, test = sources.Digits("train"), sources.Digits("test")
    assert len(train) == 1437 and len(test) == 360
    for source in (train, test):
        counts = np.bincount([source[i][1] for i in range(len(source))]) / len(source)
        assert counts.min() > 0.09 and counts.max() < 0.11
    image, _ = train[0]
    assert image.shape == (8, 8) and image.dtype == np.uint8
    names = {s.name(i) for s in (train, test) for i in range(len(s))}
    assert len(names) == 1797
    with pytest.raises(UserError, match="no split 'val'; there are train, test"):
        sources.Digits("val")


def test_folder_with_and_without_splits(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    train, val = (
        sources.open_source("folder", path=str(photos), split=s) for s in ("train", "val")
    )
    assert train.classes == ("ant", "bee", "cat")
    assert (len(train), len(val)) == (24, 6)
    assert np.bincount([val[i][1] for i in range(6)]).tolist() == [2, 2, 2]
    both = {s.name(i) for s in (train, val) for i in range(len(s))}
    assert both == {str(p) for p in photos.rglob("*.*")}
    shutil.copytree(photos, tmp_path / "set" / "test")
    whole = sources.open_source("folder", path=str(tmp_path / "set"), split="test")
    assert len(whole) == 30
    with pytest.raises(UserError, match=r"no split 'val' in .*; there are test"):
        sources.open_source("folder", path=str(tmp_path / "set"), split="val")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: [shutil.rmtree(p) for p in root.iterdir()], "has no class folders"),
        (lambda root: (root / "empty").mkdir(), "class folder .*empty has no image"),
        (lambda root: [p.unlink() for p in (root / "ant").glob("[!0]*")], "has one image"),
        (lambda root: [p.unlink() for p in root.glob("*/[!01]*")], ".*a fifth of 6 images"),
    ],
)
def test_broken_folders_are_named(photos: pathlib.Path, spoil, message: str) -> None:
    spoil(photos)
    with pytest.raises(UserError, match=rf"config\.data.*{message}"):
        sources.open_source("folder", path=str(photos), split="train")
    with pytest.raises(UserError, match=r"config\.data\.path is empty"):
        sources.open_source("folder", path="", split="train")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A set prepared by TFDS's own writer, as ArrayRecord, without TensorFlow."""
    import tensorflow_datasets as tfds

    class Colors(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # TFDS looks for files of the set's beside its code

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=["red", "green", "blue"]),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples(20), "validation": self._generate_examples(7)}

        def _generate_examples(self, count: int):
            for i in range(count):
                color = np.zeros(3, np.uint8)
                color[i % 3] = 200
                data = io.BytesIO()
                Image.fromarray(np.tile(color, (10 + i, 12, 1))).save(data, "JPEG")
                yield f"{i}", {"image": io.BytesIO(data.getvalue()), "label": i % 3}

    root = tmp_path_factory.mktemp("tfds")
    Colors(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


def test_tfds_is_read_without_tensorflow(prepared: pathlib.Path) -> None:
    source = sources.open_source("tfds", path=str(prepared), name="colors", split="validation")
    assert len(source) == 7 and source.classes == ("red", "green", "blue")
    for i in range(7):
        data, label = source[i]
        pixel = np.asarray(images.decode(data, source.name(i), max_megapixels=1.0))[5, 5]
        assert pixel.argmax() == label
    by_folder = sources.open_source(
        "tfds", path=str(prepared / "colors" / "1.0.0"), split="train[:50%]"
    )
    assert len(by_folder) == 10
    assert "tensorflow" not in sys.modules


def test_tfds_that_is_not_there_is_named(prepared: pathlib.Path) -> None:
    for path, name in ((prepared, "colours"), (prepared / "nowhere", "colors"), (prepared, "")):
        with pytest.raises(UserError, match=r"config\.data\.path=.*config\.data\.name="):
            sources.open_source("tfds", path=str(path), name=name, split="train")
    with pytest.raises(UserError, match=r"split 'test' does not exist .* train, validation"):
        sources.open_source("tfds", path=str(prepared), name="colors", split="test")


def test_synthetic_is_a_function_of_the_index() -> None:
    a, b = (sources.open_source("synthetic", split="train", examples=10, classes=4) for _ in "ab")
    assert len(a) == 10
    np.testing.assert_array_equal(a[7][0], b[7][0])
    assert a[7][1] == 3
    other = sources.open_source("synthetic", split="test", examples=10, classes=4)
    assert (a[7][0] != other[7][0]).any()
    with pytest.raises(UserError, match=r"config\.data\.source=x: choose one of"):
        sources.open_source("x", split="train")


# The loader


@hypothesis.settings(deadline=None)
@hypothesis.given(
    examples=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 5)
)
def test_every_example_once_an_epoch(examples: int, batch_size: int, seed: int) -> None:
    steps = -(-3 * examples // batch_size)
    visits = np.concatenate(
        [loader.batch_indices(seed, s, batch_size, examples) for s in range(steps)]
    )
    epochs = [visits[e * examples : (e + 1) * examples] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(examples))
    if examples > 20:
        assert (epochs[0] != epochs[1]).any()


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


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
    processes=st.sampled_from([1, 2, 4]),
    start=st.integers(0, 5),
    examples=st.integers(3, 40),
)
def test_processes_and_resumes_see_what_one_unbroken_run_sees(
    processes: int, start: int, examples: int
) -> None:
    source = Numbered(examples)
    choices = {"batch_size": 8, "total_steps": 7}
    whole = [b for b, _ in train_batches(source, **choices)][start:]
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
    with pytest.raises(UserError, match=r"bee/1\.jpeg: .*would not be exact"):
        list(eval_batches(source))


def test_a_set_of_damaged_images_alone_ends(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.jpg").write_bytes(b"")
    source = sources.open_source("folder", path=str(tmp_path), split="train")
    with pytest.raises(UserError, match="every image is damaged"):
        list(train_batches(source))


def test_a_label_out_of_range_names_the_image_and_the_knob() -> None:
    source = sources.Digits("test")
    with pytest.raises(
        UserError, match=r"digit \d+: label \d is out of range for config\.model\.classes=3"
    ):
        list(train_batches(source, classes=3, total_steps=20))
    with pytest.raises(UserError, match=r"config\.model\.classes=3"):
        list(eval_batches(source, classes=3))


@pytest.mark.parametrize("workers", [0, 1000, "0", "-1", "some"])
def test_impossible_worker_counts(workers: int | str) -> None:
    with pytest.raises(UserError, match=rf"config\.run\.workers={workers}"):
        eval_batches(Numbered(3), workers=workers)


def test_shared_photos_are_read(shared_data: pathlib.Path) -> None:
    """The 600 + 150 photos a class of imagenette, some of them grey."""
    path = str(shared_data / "imagenette")
    train = sources.open_source("folder", path=path, split="train")
    val = sources.open_source("folder", path=path, split="val")
    assert (len(train), len(val), len(train.classes)) == (6000, 1500, 10)
    batch, damaged = next(train_batches(train))
    assert batch["image"].std() > 30 and not damaged
