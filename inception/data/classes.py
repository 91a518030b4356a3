"""The classes of a split in the order of a network's outputs."""

import dataclasses
import re

import numpy as np

from inception import UserError
from inception.data import imagenet, sources
from inception.data.decoding import Record
from inception.data.sources import Examples, Source


def as_classes(source: Source, classes: tuple[str, ...], split: str) -> Source:
    """The source with labels that index `classes`, which contains its classes in any order.

    Where `classes` contains none of them and all are whole numbers, as the folders of ImageNetV2
    and the lists of Caffe, they are the numbers of `classes`, from 0; of TF-slim's 1,001 from 1,
    after the background. A note says so, and which classes the split lacks.

    Raises:
        UserError: the source has a class that is not in `classes`, or a number beyond them.
    """
    if source.classes == classes:
        return source
    where = getattr(source, "where", "`data`")
    numbers = {name: i for i, name in enumerate(classes)}
    unknown = [name for name in source.classes if name not in numbers]
    notes = getattr(source, "notes", ())
    if len(unknown) == len(source.classes) and all(re.fullmatch("[0-9]+", n) for n in unknown):
        zero = int(classes[1:] == imagenet.CLASSES)
        numbers = {name: int(name) + zero for name in unknown}
        if beyond := [name for name in unknown if numbers[name] >= len(classes)]:
            raise UserError(
                f"{where}: class {sources.first_few(beyond)}: numbers of classes must be below "
                f"{len(classes) - zero}, the network's number of classes: correct them"
            )
        first = unknown[0]
        notes += (
            f"classes {sources.first_few(unknown)} are no names of the network's: they are the "
            f"numbers of its outputs ({first} is {classes[numbers[first]]})",
        )
    elif unknown:
        raise UserError(
            f"{where}: {sources.first_few(unknown)} {'is' if len(unknown) == 1 else 'are'} none "
            f"of the {len(classes)} classes in training ({', '.join(classes[:3])}, ...): remove "
            "the pictures, or add the class to training"
        )
    labels = np.asarray([numbers[name] for name in source.classes])
    there = set(labels.tolist())
    if missing := [name for i, name in enumerate(classes) if i not in there]:
        notes += (f"{split} has no picture of {sources.first_few(missing)}",)

    def relabelled(index: int) -> tuple[Record, int]:
        record, label = source[index]
        return record, int(labels[label])

    if not isinstance(source, Examples):
        return Examples(classes, len(source), relabelled, source.name, notes=notes)
    others = source.alternatives and {
        index: labels[list(also)].tolist() for index, also in source.alternatives.items()
    }
    known = None if source.labels is None else labels[source.labels]
    return dataclasses.replace(
        source, classes=classes, read=relabelled, labels=known, alternatives=others, notes=notes
    )


def present(source: Source) -> list[int]:
    """The labels that images of the source have, sorted; reads all if they are not known."""
    labels = getattr(source, "labels", None)
    every = (source[i][1] for i in range(len(source))) if labels is None else labels.tolist()
    others = getattr(source, "alternatives", None) or {}
    return sorted(set(every).union(*others.values()))
