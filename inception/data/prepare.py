"""ImageNet's tars, or any TFDS set -> ArrayRecord; any of these, or a folder -> a store.

Only this file needs TensorFlow, for TFDS's builders.
"""

import contextlib
import difflib
import functools
import importlib.util
import io
import os
import pathlib
import shutil
import sys
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

import absl.logging

from inception import UserError
from inception.data import decoding, folders, paths, pipeline, sources, store, whole
from inception.data.classes import as_classes

IMAGENET = "imagenet2012"
TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
IMAGENET_COUNTS = {"train": 1_281_167, "validation": 50_000}


def _names_in(path: pathlib.Path) -> list[str]:
    if not path.exists():
        raise UserError(
            f"`tars`={path.parent}: there is no {path.name} in it: ImageNet's two tars "
            f"({', '.join(TARS)}) come from image-net.org, after registration"
        )
    errors, again = (tarfile.TarError, OSError), "download it again"
    with (
        paths.explained(f"{path} is truncated, or no tar", again, errors),
        tarfile.open(path, "r:") as tar,
    ):
        return tar.getnames()


def _check_tars(tars: str, classes: list[str], work: pathlib.Path) -> None:
    """Checks both tars' tables of contents: TFDS silently drops the split of a missing tar."""
    train, val = (pathlib.Path(tars).expanduser() / name for name in TARS)
    inside = {path: _names_in(path) for path in (train, val)}
    for path, suffix, what in ((train, ".tar", "one tar a class"), (val, ".JPEG", "JPEG images")):
        others = [name for name in inside[path] if not name.endswith(suffix)]
        if others or not inside[path]:
            raise UserError(
                f"{path} should hold {what} and has {others[0] if others else 'nothing'} in it: "
                "are the two tars swapped?"
            )
    found = {pathlib.Path(name).stem for name in inside[train]}
    wrong = [f"{name} is missing" for name in sorted(set(classes) - found)]
    wrong += [f"{name} is none of ImageNet's" for name in sorted(found - set(classes))]
    if wrong:
        raise UserError(
            f"{train} holds {len(found)} classes of {len(classes)}: {', '.join(wrong[:3])}. "
            "Download it again"
        )
    needed = 2 * sum(path.stat().st_size for path in (train, val))  # TFDS sorts on disk
    whole.check_room(work, needed, "preparing takes about")


def _prepare_tfds(name: str, tars: str, work: pathlib.Path) -> pathlib.Path:
    """Runs TFDS's builder in `work`; returns the folder of the prepared version."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            "TFDS prepares a set with TensorFlow, which is not installed (reading needs none): "
            "pip install -c requirements.txt -e '.[prepare]'"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if name.split(":")[0].split("/")[0] not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise UserError(f"`name`={name}: TFDS has no such set; the nearest are {', '.join(near)}")
    absl.logging.set_verbosity(absl.logging.ERROR)  # it warns of ImageNet's missing test split
    with paths.explained(f"`name`={name}", errors=Exception):  # an unknown version or config
        builder = tfds.builder(name, data_dir=str(work), file_format="array_record")
    if builder.name == IMAGENET:
        if not tars:
            raise UserError(f"`name`={name} cannot be downloaded: give `tars`")
        _check_tars(tars, builder.info.features["label"].names, work)
    with (
        paths.explained(f"TFDS could not prepare {name}", errors=Exception),  # of any type
        contextlib.redirect_stdout(io.StringIO()),  # it prints the temporary folder
    ):
        builder.download_and_prepare(
            download_dir=work / "downloads",
            download_config=tfds.download.DownloadConfig(manual_dir=tars or None),
        )
    shutil.rmtree(work / "downloads", ignore_errors=True)
    return pathlib.Path(builder.data_dir)


def _label(source: sources.Source, index: int) -> int:
    """The record's label; DamagedImageError if undecodable. Plain JPEGs are only parsed."""
    record, label = sources.read(source, index)
    decoding.FastPicture(record, source.name(index), max_megapixels=store.MEGAPIXELS)
    return label


def _check_records(splits: Mapping[str, sources.Source], name: str) -> dict[str, Any]:
    """Checks every record that TFDS has written; prints actual and expected counts."""
    counts: dict[str, int] = {}
    rejected: list[str] = []
    for split, source in splits.items():
        make, bad = functools.partial(_label, source), list[str]()
        classes = set(store.of_each(source, make, bad, desc=f"check {split}"))
        counts[split], rejected = len(source), rejected + bad
        line = f"{split}: {len(source)} images of {len(classes)} of {len(source.classes)} classes"
        if name == IMAGENET and (expected := IMAGENET_COUNTS.get(split)):
            line += f", {len(source) - expected:+d} against ILSVRC-2012's {expected}"
        print(line + (f"; {len(bad)} cannot be read" if bad else ""))
    return {"splits": counts, "rejected": rejected}


def _open_all(path: pathlib.Path, labels: str) -> dict[str, sources.Source]:
    """Opens every split of a set that TFDS has prepared, or of a folder of images.

    Args:
        labels: a list of the pictures and their classes, as of config.data.labels; '': none.
    """
    if (path / "store.json").exists():
        raise UserError("this is already a store: give the set that it was made from")
    depths = ("", "*/", "*/*/", "*/*/*/")  # a version, a set, TFDS's folder, sets with configs
    versions = [found for depth in depths for found in path.glob(f"{depth}dataset_info.json")]
    if len(versions) > 1:
        raise UserError(f"contains {', '.join(sorted(str(v.parent) for v in versions))}: name one")
    if versions:
        from inception.data import tfds

        folder = str(versions[0].parent)
        return {
            name: tfds.open_tfds(folder, "", name) for name in tfds.builder(folder, "").info.splits
        }
    names = sorted(p.name for p in path.glob("*/") if p.name in folders.SPLITS)
    opener: Callable[..., sources.Examples] = folders.folder
    if labels:
        from inception.data.labels import listed

        opener = functools.partial(listed, labels=labels)
    splits = {
        name: opener(str(path), name, training=name == "train")
        for name in names or ("train", "val")
    }
    most = max((split.classes for split in splits.values()), key=len)
    classes = splits["train"].classes if "train" in splits else most
    return {name: as_classes(split, classes, name) for name, split in splits.items()}


def prepare(
    *,
    tars: str,
    name: str,
    source: str,
    output: str,
    short_side: int | None,
    quality: int,
    format: str,
    bits: int = 0,
    labels: str = "",
) -> dict[str, Any]:
    """Writes OUTPUT: a set of TFDS as ArrayRecord, or with `short_side` a store.

    The arguments are the command's flags; '' is a `name` or `source` not given. OUTPUT appears
    only when it is complete; after an interruption, the next start begins anew.

    Returns:
        {'splits': {name: count}, 'rejected': [a line for each image that cannot be read]}.

    Raises:
        UserError: an error in the tars, the source, the output or the numbers.
    """
    with whole.all_or_nothing(output) as work:
        prepared = pathlib.Path(os.path.expanduser(source))
        if not source:
            prepared = _prepare_tfds(name or IMAGENET, tars, work)
        try:
            splits = _open_all(prepared, labels)
        except UserError as error:
            raise UserError(f"`source`={source}: {error}" if source else str(error)) from error
        flag = "config.data.bits" if short_side is None else "bits"  # records stay unchanged
        for line in pipeline.remarks(*splits.values(), bits=bits, flag=flag, where=source):
            print(line, file=sys.stderr)
        if short_side is None:
            result = _check_records(splits, (name or IMAGENET).split(":")[0])
        else:
            encoding = store.Encoding(short_side, quality, format, bits)
            result = store.write_store(splits, work, encoding, origin=source or name or IMAGENET)
            if not source:
                shutil.rmtree(work / prepared.relative_to(work).parts[0])
    for line in result["rejected"][:20]:
        print(f"WARNING: {line}", file=sys.stderr)
    return result
