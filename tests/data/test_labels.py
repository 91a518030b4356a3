"""Lists of pictures and classes: each kind that people have, and what is wrong with one in a line."""

import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest

from inception.data import classes, folders, imagenet, labels, sources
from tests import tiny

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def flat(photos: pathlib.Path) -> pathlib.Path:
    """A set whose train has class folders and whose val is flat, ant_0.jpeg, ..., cat_9.png."""
    root = photos.parent / "set"
    shutil.copytree(photos, root / "train")
    (root / "val").mkdir()
    for file in photos.glob("*/*"):
        file.rename(root / "val" / f"{file.parent.name}_{file.name}")
    return root


def names(root: pathlib.Path) -> list[str]:
    return sorted(p.name for p in (root / "val").iterdir())


def write(file: pathlib.Path, lines: list[str], head: str = "") -> str:
    file.write_text("".join(f"{line}\n" for line in [head, *lines] if line), encoding="utf-8")
    return str(file)


def check(source: sources.Source, count: int = 30) -> None:
    """Each picture's class is the one of its name."""
    assert len(source) == count and list(source.classes) == sorted(source.classes)
    for i in range(count):
        name = pathlib.Path(source.name(i)).name
        assert source.classes[source[i][1]] == name.split("_")[0]
        assert source[i][1] == source.labels[i]


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("", "{name}\t{label}\t0\t0\t62\t62"),  # Tiny ImageNet's val_annotations.txt
        ("", "{name} {label}"),
        ("", "./{name},{label}"),
        ("", "val/{name},{label}"),
        ("ImageId,PredictionString", "{stem},{label} 1 2 3 4 {label} 5 6 7 8"),  # Kaggle's
        ("image_id,label_name,size,label", "{stem},Insect,3,{label}"),
        ("\ufeffClass;,Width,Path".replace(";", ""), '{label},40,"{name}"'),
        ("\tfile name\tcategory", "0\t{name}\t{label}"),
    ],
)
def test_lists_as_people_have_them(flat: pathlib.Path, head: str, line: str) -> None:
    rows = [
        line.format(name=n, stem=pathlib.Path(n).stem, label=n.split("_")[0]) for n in names(flat)
    ]
    file = write(flat / "list.txt", rows, head)
    check(sources.open_source("folder", path=str(flat), split="val", labels=file))
    train = sources.open_source("folder", path=str(flat), split="train", labels=file)
    assert train.classes == CLASSES and "ant/0" in train.name(0)  # which has class folders
    assert train.notes == (f"train has class folders: {file} is not used for it",)


def test_a_picture_with_a_name_like_a_column_is_no_header(flat: pathlib.Path) -> None:
    shutil.copy(flat / "val/ant_0.jpeg", flat / "val/image_1.jpeg")
    rows = [
        "image_1,class_1",
        *(f"{n},{n.split('_')[0]}" for n in names(flat) if n != "image_1.jpeg"),
    ]
    file = write(flat / "list.csv", rows)
    source = sources.open_source("folder", path=str(flat), split="val", labels=file)
    assert len(source) == 31 and source.classes == (*CLASSES, "class_1")


def test_numbers_are_outputs(flat: pathlib.Path) -> None:
    """Caffe's val.txt; classes 0 to 10 are not in the order of text."""
    of_class = {"ant": 10, "bee": 2, "cat": 0}
    file = write(flat / "val.txt", [f"{n} {of_class[n.split('_')[0]]}" for n in names(flat)])
    source = labels.listed(str(flat), "val", file, training=False)
    assert source.classes == ("0", "2", "10")
    view = classes.as_classes(source, tuple(f"n{i:02}" for i in range(11)), "val")
    for i in range(30):
        label = of_class[pathlib.Path(view.name(i)).name.split("_")[0]]
        assert view[i][1] == view.labels[i] == label
    with tiny.refused(r"config\.data\.labels=.*val\.txt: class 10: numbers .* below 10"):
        classes.as_classes(source, tuple(f"n{i:02}" for i in range(10)), "val")


def test_numbers_on_tensorflows_outputs_begin_after_the_background() -> None:
    source = sources.Examples(("0", "999"), 2, lambda i: (np.zeros((4, 4), np.uint8), i), str)
    view = classes.as_classes(source, ("background", *imagenet.CLASSES), "val")
    assert [view[i][1] for i in range(2)] == [1, 1000]
    assert "(0 is n01440764)" in view.notes[0]


def test_a_quote_alone_is_one_line(flat: pathlib.Path) -> None:
    file = write(flat / "list.csv", ['"' + "x" * 200_000 + ",ant"])
    with tiny.refused(r"config\.data\.labels=.*list\.csv"):
        labels.listed(str(flat), "val", file, training=False)


def test_one_list_of_a_set_without_splits(flat: pathlib.Path) -> None:
    (flat / "val").rename(flat / "images")
    shutil.rmtree(flat / "train")
    rows = [f"images/{p.name},{p.name[:3]}" for p in (flat / "images").iterdir()]
    file = write(flat / "list.csv", rows)
    train, val = (labels.listed(str(flat), s, file, training=False) for s in ("train", "val"))
    assert (len(train), len(val), val.left_out) == (24, 6, 24)
    check(labels.listed(str(flat), "all", file, training=False))
    # The same fifth as of class folders with the same order of pictures.
    for p in (flat / "images").iterdir():
        (flat / "by_class" / p.name[:3]).mkdir(parents=True, exist_ok=True)
        shutil.copy(p, flat / "by_class" / p.name[:3])
    by_class = folders.folder(str(flat / "by_class"), "val")
    held_out = [[pathlib.Path(s.name(i)).name for i in range(6)] for s in (val, by_class)]
    assert held_out[0] == held_out[1]


def test_a_list_of_each_split(flat: pathlib.Path) -> None:
    """Beside folders of splits, and for splits that only the lists name."""
    for split in ("train", "val"):
        write(flat / f"{split}.csv", [f"{n},{n[:3]}" for n in names(flat)])
    shutil.rmtree(flat / "train")
    shutil.copytree(flat / "val", flat / "train")
    pattern = f"{flat}/{{split}}.csv"
    for split in ("train", "val"):
        source = labels.listed(str(flat), split, pattern, training=split == "train")
        check(source)
        assert f"/{split}/" in source.name(0)
    with tiny.refused(r"config\.data\.labels=.*test\.csv cannot be read"):
        (flat / "test").mkdir()
        labels.listed(str(flat), "test", pattern, training=False)
    write(flat / "odd.csv", [f"{n},{n[:3]}" for n in names(flat)[::3]])
    check(labels.listed(str(flat / "val"), "odd", pattern, training=False), 10)


def test_real_has_several_classes_of_an_image_or_none(flat: pathlib.Path) -> None:
    several = [[i % 3] for i in range(30)]
    several[:3] = [[], [2, 0, 1], [1, 2]]
    file = write(flat / "real.json", [json.dumps(several)])
    source = labels.listed(str(flat), "val", file, training=False)
    view = classes.as_classes(source, CLASSES, "val")
    assert len(view) == 29 and view.notes[0].startswith("1 of 30 images do not count")
    by_name = {pathlib.Path(view.name(i)).name: i for i in range(29)}
    for name, right in list(zip(names(flat), several, strict=True))[1:]:
        i = by_name[name]
        assert [view[i][1], *view.alternatives.get(i, ())] == right
    assert labels.listed(str(flat), "train", file, training=True).classes == CLASSES
    for content, message in (
        ("[[1]]", "is for 1 images, .* and there are 30"),
        ("{}", "is not a JSON list of lists of numbers"),
        ("[[1.5]]", "is not a JSON list of lists of numbers"),
        ("[", "is not a JSON list of lists of numbers"),
    ):
        with tiny.refused(rf"config\.data\.labels=.*real\.json {message}"):
            labels.listed(str(flat), "val", write(flat / "real.json", [content]), training=False)


Spoil = Callable[[list[str]], list[str] | bytes]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: [*rows, "x.png,ant", "y.png,bee"],
         r"2 of 32 lines name no picture: x\.png \(line 31\), y\.png \(line 32\)\. Paths begin in"),
        (lambda rows: rows[:23],
         r"does not name 7 of 30 pictures in .*: cat_3\.png, cat_4\.png, .* and 2 more\. Add them"),
        (lambda rows: [*rows, rows[0].replace(",ant", ",bee")],
         r"1 of 31 lines give a picture a second class: ant_0\.jpeg \(line 31\)"),
        (lambda rows: [r.replace(",", ";") for r in rows], "has ';' between its columns"),
        (lambda rows: [rows[0], "ant_1.jpeg", *rows[2:]], "1 lines without a class: 2"),
        (lambda rows: ["image,size", *rows], r"its header \(image, size\) names no column of classes"),
        (lambda rows: ["size,class", *rows], r"its header \(size, class\) names no column of paths"),
        (lambda _: [], "is empty"),
        (lambda _: ["path,label"], "is empty"),
        (lambda rows: "\n".join(rows).encode("utf-16"), "is not UTF-8, perhaps UTF-16"),
        (lambda rows: "\n".join(["é.png,ant", *rows]).encode("latin-1"),
         r"1 of 31 lines name no picture: .*the list is not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list_is_said(flat: pathlib.Path, spoil: Spoil, message: str) -> None:
    content = spoil([f"{n},{n.split('_')[0]}" for n in names(flat)])
    file = flat / "list.csv"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        write(file, content)
    with tiny.refused(rf"config\.data\.labels=.*list\.csv:? {message}") as raised:
        labels.listed(str(flat), "val", str(file), training=False)
    assert "\n" not in str(raised.value)


def test_a_short_name_of_several_pictures_is_refused(flat: pathlib.Path) -> None:
    shutil.copy(flat / "val/ant_0.jpeg", flat / "val/ant_0.jpg")
    file = write(flat / "list.csv", [f"{pathlib.Path(n).stem},{n[:3]}" for n in names(flat)])
    with tiny.refused(r"2 of 31 lines name several pictures: ant_0 \(line 1\), ant_0 \(line 2\)"):
        labels.listed(str(flat), "val", file, training=False)


def test_lines_for_the_other_split_are_passed_over(flat: pathlib.Path) -> None:
    rows = [f"{p.relative_to(flat)},{p.parent.name}" for p in (flat / "train").glob("*/*")]
    file = write(flat / "list.csv", [*rows, *(f"{n},{n[:3]}" for n in names(flat))])
    check(labels.listed(str(flat), "val", file, training=False))


def test_list_and_pictures_may_be_in_a_bucket(flat: pathlib.Path, bucket: pathlib.Path) -> None:
    write(flat / "list.csv", [f"{pathlib.Path(n).stem},{n[:3]}" for n in names(flat)])
    shutil.copytree(flat, bucket / "set")
    check(labels.listed("gs://bucket/set", "val", "gs://bucket/set/list.csv", training=False))


def test_a_list_is_for_a_folder(tmp_path: pathlib.Path) -> None:
    with tiny.refused(
        r"config\.data\.labels=x is for --config\.data\.source=folder, not for digits"
    ):
        sources.open_source("digits", split="train", labels="x")
