"""Sets that TFDS has prepared, read without TensorFlow; source=tfds imports this."""

import difflib

import tensorflow_datasets

from inception import UserError
from inception.data import paths


class Tfds:
    """A TFDS image-classification set prepared as ArrayRecord, read without TensorFlow.

    PATH is TFDS's data folder, and the set `name` ('imagenet2012', 'mnist:3.0.1') is looked up
    in it; or PATH is the folder of one prepared version and `name` is empty. Splits may be
    sliced: 'train[:90%]'.
    """

    def __init__(self, path: str, name: str, split: str):
        where = f"`path`={path} `data.name`={name}"
        root = paths.on_disk(path)
        try:
            if name:
                builder = tensorflow_datasets.core.read_only_builder.builder_from_files(
                    name, data_dir=str(root), file_format="array_record"
                )
            else:
                builder = tensorflow_datasets.builder_from_directory(str(root))
        except Exception as error:
            inside = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
            near = difflib.get_close_matches(name.split(":")[0], inside, n=1, cutoff=0.0)
            found = f"there is {', '.join(inside[:20])}" if inside else "no such folder, or empty"
            raise UserError(
                f"{where}: no prepared TFDS set of that name; {found}"
                + (f"; the nearest is {near[0]}" if near and name else "")
            ) from error
        info = builder.info
        if info.file_format.value != "array_record":
            raise UserError(
                f"{where}: prepared as {info.file_format.value}; prepare it with "
                "file_format='array_record'"
            )
        keys = info.supervised_keys
        if not keys or not isinstance(info.features[keys[0]], tensorflow_datasets.features.Image):
            raise UserError(f"{where}: not an image-classification set (it has {info.features})")
        self._image_key, self._label_key = keys
        try:
            self._records = builder.as_data_source(
                split, decoders={self._image_key: tensorflow_datasets.decode.SkipDecoding()}
            )
        except ValueError as error:
            raise UserError(
                f"split '{split}' does not exist in {where}: it has {', '.join(info.splits)}"
            ) from error
        self.classes = tuple(info.features[self._label_key].names)
        self._split = split

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        try:
            example = self._records[index]
        except RuntimeError as error:  # a damaged block of the file
            raise OSError(" ".join(str(error).split())[:200]) from error
        return example[self._image_key], int(example[self._label_key])

    def name(self, index: int) -> str:
        return f"record {index} of {self._split}"
