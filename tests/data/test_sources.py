"""Sources: what is there is found, once, with its label; what is not is named."""

import io
import pathlib
import shutil
import sys

import numpy as np
import pytest
from PIL import Image, features

from inception.data import classes as of_network
from inception.data import decoding, folders, imagenet, sources
from tests import tiny


def test_digits_are_all_there_and_split_by_class() -> None:
    train, test = sources.digits("train"), sources.digits("test")
    assert len(train) == 1437 and len(test) == 360
    for source in (train, test):
        counts = np.bincount([source[i][1] for i in range(len(source))]) / len(source)
        assert counts.min() > 0.09 and counts.max() < 0.11
    image, _ = train[0]
    assert image.shape == (8, 8) and image.dtype == np.uint8
    names = {s.name(i) for s in (train, test) for i in range(len(s))}
    assert len(names) == 1797
    with tiny.refused("no split 'val'; there are train, test"):
        sources.digits("val")


def test_folder_with_and_without_splits(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    train, val = (
        sources.open_source("folder", path=str(photos), split=s) for s in ("train", "val")
    )
    assert train.classes == ("ant", "bee", "cat")
    assert (len(train), len(val)) == (24, 6)
    assert np.bincount([val[i][1] for i in range(6)]).tolist() == [2, 2, 2]
    both = {s.name(i) for s in (train, val) for i in range(len(s))}
    assert both == {str(p) for p in photos.rglob("*.*")}
    assert len(folders.folder(str(photos), "all")) == 30
    (photos / "ant" / "._0.jpeg").write_bytes(b"macOS")
    (photos / "ant" / ".thumbnails").mkdir()
    shutil.copy(photos / "ant" / "0.jpeg", photos / "ant" / ".thumbnails")
    shutil.copytree(photos, tmp_path / "set" / "test")
    whole = sources.open_source("folder", path=str(tmp_path / "set"), split="test")
    assert len(whole) == 30
    with tiny.refused(r"no split 'val' in .*; there are test"):
        sources.open_source("folder", path=str(tmp_path / "set"), split="val")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: [shutil.rmtree(p) for p in root.iterdir()], "has no class folders"),
        (lambda root: (root / "empty").mkdir(), "class folder .*empty has no image"),
        (lambda root: [p.unlink() for p in (root / "ant").glob("[!0]*")], "has one image"),
        (
            lambda root: [p.unlink() for p in root.glob("*/[!01]*")],
            "a fifth of 6 images cannot be held out with one of each of the 3 classes .the smallest has 2.: add",
        ),
    ],
)
def test_broken_folders_are_named(photos: pathlib.Path, spoil, message: str) -> None:
    spoil(photos)
    with tiny.refused(rf"config\.data.*{message}"):
        sources.open_source("folder", path=str(photos), split="train")
    with tiny.refused(r"config\.data\.path is empty"):
        sources.open_source("folder", path="", split="train")


def test_a_class_with_the_name_of_a_split_is_told_why(photos: pathlib.Path) -> None:
    (photos / "bee").rename(photos / "train")
    with tiny.refused(
        r"train has no class folders in it: .* A folder of the name train is a split: rename"
    ):
        folders.folder(str(photos), "train")
    (photos / "train").rename(photos / "trains")  # the remedy
    assert len(folders.folder(str(photos), "all")) == 30


def test_splits_of_other_names_are_named(photos: pathlib.Path) -> None:
    root = photos.parent / "set"
    for split in ("train", "valid"):
        shutil.copytree(photos, root / split)
    with tiny.refused(r"there is no split 'val' in .*; there are train, valid"):
        folders.folder(str(root), "val")
    assert len(folders.folder(str(root), "valid")) == 30


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".tif", "TIFF"),
        (".BMP", "BMP"),
        (".gif", "GIF"),
        (".jfif", "JPEG"),
        (".jp2", "JPEG2000"),
        (".avif", "AVIF"),
    ],
)
def test_whatever_pillow_reads_is_a_picture(photos: pathlib.Path, suffix: str, kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.new("RGB", (30, 20), "red").save(photos / f"ant/one{suffix}", kind)
    source = sources.open_source("folder", path=str(photos), split="all")
    assert len(source) == 31
    (index,) = (i for i in range(31) if source.name(i).endswith(suffix))
    image = decoding.decode(source[index][0], "one", max_megapixels=1.0)
    assert image.size == (30, 20) and np.asarray(image)[0, 0, 0] > 200


def test_what_is_no_picture_is_counted(photos: pathlib.Path) -> None:
    for name in ("ant/film.mp4", "bee/film.mp4", "bee/README", "cat/Thumbs.db", "cat/.hidden.mp4"):
        (photos / name).touch()
    source = folders.folder(str(photos), "train")
    assert source.passed_over == "2 .mp4, 1 no suffix"
    assert folders.folder(str(photos), "all").passed_over == source.passed_over


def test_what_systems_leave_is_no_class(photos: pathlib.Path) -> None:
    for name in ("lost+found", "@eaDir", "__MACOSX", ".ipynb_checkpoints"):
        (photos / name).mkdir()
        (photos / "ant" / name).mkdir()
        shutil.copy(photos / "ant/0.jpeg", photos / name)
        shutil.copy(photos / "ant/0.jpeg", photos / "ant" / name)
    source = folders.folder(str(photos), "all")
    assert source.classes == ("ant", "bee", "cat") and len(source) == 30


def test_links_in_a_circle_count_no_picture_twice(photos: pathlib.Path) -> None:
    (photos / "ant/latest").symlink_to(".")
    (photos / "ant/deep").mkdir()
    (photos / "ant/deep/up").symlink_to("..")
    shutil.copy(photos / "ant/0.jpeg", photos / "ant/deep/one.jpeg")
    (photos / "shared").mkdir()
    shutil.copy(photos / "ant/0.jpeg", photos / "shared/two.jpeg")
    shutil.move(photos / "shared", photos.parent / "shared")
    (photos / "ant/elsewhere").symlink_to(photos.parent / "shared")  # a link of another kind
    assert len(folders.folder(str(photos), "all")) == 32


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
        pixel = np.asarray(decoding.decode(data, source.name(i), max_megapixels=1.0))[5, 5]
        assert pixel.argmax() == label
    by_folder = sources.open_source(
        "tfds", path=str(prepared / "colors" / "1.0.0"), split="train[:50%]"
    )
    assert len(by_folder) == 10
    assert "tensorflow" not in sys.modules


def test_a_damaged_record_is_an_oserror(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(prepared / "colors" / "1.0.0", tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*-train.array_record*")
    data = bytearray(file.read_bytes())
    written = [i for i, byte in enumerate(data) if byte]  # the rest is padding
    data[written[len(written) // 2]] ^= 0xFF
    file.write_bytes(data)
    source = sources.open_source("tfds", path=str(tmp_path / "set"), split="train")

    def damage(index: int) -> str:
        try:
            source[index]
        except OSError as error:
            return str(error)
        return ""

    lines = [damage(i) for i in range(len(source))]
    assert any(lines) and not all(lines)
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize("spoil", ["missing", "cut", "another"])
def test_a_file_of_a_split_that_is_missing_or_cut_is_an_error(
    prepared: pathlib.Path, tmp_path: pathlib.Path, spoil: str
) -> None:
    shutil.copytree(prepared / "colors" / "1.0.0", tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*-train.array_record*")
    (other,) = (tmp_path / "set").glob("*-validation.array_record*")
    data = file.read_bytes()
    file.unlink()
    if spoil == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif spoil == "another":
        shutil.copy(other, file)
    fault = "7 records instead of 20" if spoil == "another" else ""
    with tiny.refused(rf"{file.name}.*{fault}.*1 of 1 files of the split.*copy them again"):
        sources.open_source("tfds", path=str(tmp_path / "set"), split="train[:50%]")
    assert len(sources.open_source("tfds", path=str(tmp_path / "set"), split="validation")) == 7


def test_tfds_that_is_not_there_is_named(prepared: pathlib.Path) -> None:
    for path, name in ((prepared, "colours"), (prepared / "nowhere", "colors"), (prepared, "")):
        with tiny.refused(r"config\.data\.path=.*config\.data\.name="):
            sources.open_source("tfds", path=str(path), name=name, split="train")
    with tiny.refused(r"split 'test' does not exist .* train, validation"):
        sources.open_source("tfds", path=str(prepared), name="colors", split="test")


def test_synthetic_is_a_function_of_the_index() -> None:
    a, b = (sources.open_source("synthetic", split="train", examples=10, classes=4) for _ in "ab")
    assert len(a) == 10
    np.testing.assert_array_equal(a[7][0], b[7][0])
    assert a[7][1] == 3
    other = sources.open_source("synthetic", split="test", examples=10, classes=4)
    assert (a[7][0] != other[7][0]).any()


def test_a_source_takes_the_labels_of_a_longer_list(photos: pathlib.Path) -> None:
    source = folders.folder(str(photos), "val")
    assert of_network.as_classes(source, ("ant", "bee", "cat"), "val") is source
    classes = ("bee", "dog", "cat", "ant")
    view = of_network.as_classes(source, classes, "val")
    assert view.classes == classes and len(view) == len(source) == 6
    for i in range(len(view)):
        record, label = view[i]
        assert record == source[i][0] and view.name(i) == source.name(i)
        assert (
            classes[label] == source.classes[source[i][1]] == pathlib.Path(view.name(i)).parent.name
        )


def test_classes_that_the_network_does_not_know_are_named(photos: pathlib.Path) -> None:
    source = folders.folder(str(photos), "val")
    with tiny.refused(r"ant, cat are none of the 2 classes .* \(bee, dog, ...\)"):
        of_network.as_classes(source, ("bee", "dog"), "val")


def test_imagenets_classes_have_names() -> None:
    assert len(set(imagenet.CLASSES)) == 1000 and sorted(imagenet.CLASSES) == list(imagenet.CLASSES)
    assert imagenet.names(["n01440764", "colour 1", "n03126707"]) == ["tench", "colour 1", "crane"]
    every = imagenet.names(imagenet.CLASSES)
    assert all(every) and len(set(every)) == 999  # two are just "crane"


def test_imagenets_classes_are_in_caffes_order(shared_data: pathlib.Path) -> None:
    lines = (shared_data / "bvlc_googlenet" / "synset_words.txt").read_text().splitlines()
    assert tuple(line.split()[0] for line in lines) == imagenet.CLASSES
    for line, name in zip(lines, imagenet.names(imagenet.CLASSES), strict=True):
        assert line.split(" ", 1)[1].startswith(name), line


def test_numbers_are_outputs_where_no_class_has_such_a_name(photos: pathlib.Path) -> None:
    """ImageNetV2's folders are 0 to 999: as text 10 comes before 2."""
    for name, number in (("ant", "0"), ("bee", "2"), ("cat", "10")):
        (photos / name).rename(photos / number)
    source = folders.folder(str(photos), "all")
    assert source.classes == ("0", "10", "2")
    classes = tuple(f"n{i:04}" for i in range(11))
    view = of_network.as_classes(source, classes, "all")
    for i in range(len(view)):
        assert view[i][1] == view.labels[i] == int(pathlib.Path(view.name(i)).parent.name)
    assert "0, 10, 2 are no names of the network's" in view.notes[0]
    assert "all has no picture of n0001, n0003, n0004, n0005, n0006 and 3 more" in view.notes[1]
    with tiny.refused(r"class 10: numbers of classes must be below 10"):
        of_network.as_classes(source, classes[:10], "all")
    named = of_network.as_classes(source, (*"0123456789", "10"), "all")
    assert not any("numbers" in note for note in named.notes)
    by_text = tuple(sorted(map(str, range(11))))  # as training on such folders has them
    view = of_network.as_classes(source, by_text, "all")
    assert [by_text[label] for label in np.unique(view.labels)] == ["0", "10", "2"]


def test_only_training_needs_every_class(photos: pathlib.Path) -> None:
    root = photos.parent / "set"
    for split in ("train", "val"):
        shutil.copytree(photos, root / split)
    whole = folders.folder(str(root), "train").classes
    for spoil in (lambda p: [f.unlink() for f in p.iterdir()], lambda p: p.rmdir()):
        spoil(root / "val/bee")
        val = folders.folder(str(root), "val", training=False)
        assert val.classes == ("ant", "cat") and len(val) == 20
        view = of_network.as_classes(val, whole, "val")
        assert view.notes == ("val has no picture of bee",)
        assert np.bincount(view.labels).tolist() == [10, 0, 10]
    shutil.copytree(photos / "ant", root / "val/dog")
    val = folders.folder(str(root), "val", training=False)
    with tiny.refused("dog is none of the 3 classes"):
        of_network.as_classes(val, whole, "val")
    [f.unlink() for f in (root / "train/bee").iterdir()]
    with tiny.refused("class folder .*bee has no image"):
        folders.folder(str(root), "train")
