"""Sets that TFDS has prepared, read without TensorFlow; source=tfds imports this."""

from typing import Any

import tensorflow_datasets

from inception import UserError
from inception.data import paths
from inception.data.sources import Examples


def builder(path: str, name: str) -> Any:
    """Reads what TFDS has prepared in a folder, without TensorFlow; arguments as of `open_tfds`."""
    root = paths.on_disk(path)
    try:
        if not name:
            return tensorflow_datasets.builder_from_directory(str(root))
        return tensorflow_datasets.core.read_only_builder.builder_from_files(
            name, data_dir=str(root), file_format="array_record"
        )
    except Exception as error:
        inside = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
        found = f"there is {', '.join(inside[:20])}" if inside else "no such folder, or empty"
        where = f"`path`={path} `data.name`={name}"
        raise UserError(f"{where}: no prepared TFDS set of that name; {found}") from error


def open_tfds(path: str, name: str, split: str) -> Examples:
    """A TFDS image-classification set prepared as ArrayRecord, read without TensorFlow.

    PATH is TFDS's data folder, and the set `name` ('imagenet2012', 'mnist:3.0.1') is looked up
    in it; or PATH is the folder of one prepared version and `name` is empty. Splits may be
    sliced: 'train[:90%]'.
    """
    where = f"`path`={path} `data.name`={name}"
    prepared = builder(path, name)
    info = prepared.info
    if info.file_format.value != "array_record":
        raise UserError(
            f"{where}: prepared as {info.file_format.value}; prepare it with "
            "file_format='array_record'"
        )
    keys = info.supervised_keys
    if not keys or not isinstance(info.features[keys[0]], tensorflow_datasets.features.Image):
        raise UserError(f"{where}: not an image-classification set (it has {info.features})")
    image, label = keys
    try:
        records = prepared.as_data_source(
            split, decoders={image: tensorflow_datasets.decode.SkipDecoding()}
        )
    except ValueError as error:
        raise UserError(
            f"split '{split}' does not exist in {where}: it has {', '.join(info.splits)}"
        ) from error

    def record(index: int) -> tuple[bytes, int]:
        try:
            example = records[index]
        except RuntimeError as error:  # a damaged block of the file
            raise OSError(" ".join(str(error).split())[:200]) from error
        return example[image], int(example[label])

    names = tuple(info.features[label].names)
    return Examples(names, len(records), record, lambda index: f"record {index} of {split}")
