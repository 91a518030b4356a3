"""Reads sets that TFDS has prepared, without TensorFlow; source=tfds imports this."""

import concurrent.futures
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets
from array_record.python import array_record_module

from inception import UserError
from inception.data import paths
from inception.data.sources import Examples


def builder(path: str, name: str) -> Any:
    """A builder of a prepared TFDS set, without TensorFlow; arguments as of `open_tfds`."""
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


def _check_shards(shards: Sequence[Any]) -> None:
    """Raises UserError unless each file of a split is complete, with the noted number of records.

    TFDS opens a split without checking its files.
    """

    def fault(shard: Any) -> str:
        try:
            reader = array_record_module.ArrayRecordReader(str(shard.filename))
            records = reader.num_records()  # 0 without an error, if cut between blocks
            reader.close()
        except (OSError, RuntimeError, ValueError) as error:
            return " ".join(str(error).split())[:200] or "cut short"
        noted = shard.examples_in_shard
        return "" if records == noted else f"{records} records instead of {noted}"

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        faults = zip(shards, threads.map(fault, shards), strict=True)
        broken = [(shard.filename, text) for shard, text in faults if text]
    if broken:
        name, text = broken[0]
        raise UserError(
            f"{name}: {text}; {len(broken)} of {len(shards)} files of the split are missing or "
            "damaged: copy them again, or prepare the set anew"
        )


def open_tfds(path: str, name: str, split: str) -> Examples:
    """A TFDS image-classification set prepared as ArrayRecord, read without TensorFlow.

    PATH is TFDS's data folder, which contains the set `name` ('imagenet2012', 'mnist:3.0.1');
    or PATH is the folder of one prepared version and `name` is empty. Splits may be sliced:
    'train[:90%]'.
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

    _check_shards(info.splits[split].file_instructions)

    def record(index: int) -> tuple[bytes, int]:
        try:
            example = records[index]
        except RuntimeError as error:  # a damaged block of the file
            raise OSError(" ".join(str(error).split())[:200]) from error
        return example[image], int(example[label])

    names = tuple(info.features[label].names)
    return Examples(names, len(records), record, lambda index: f"record {index} of {split}")
