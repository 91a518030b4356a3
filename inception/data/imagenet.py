"""ImageNet's 1,000 classes (ILSVRC-2012), as Caffe, torchvision, timm and TFDS number them.

imagenet.txt was made from two lists in timm's wheel (1.0.31, Apache-2.0), imagenet_synsets.txt and
imagenet_synset_to_lemma.txt: WordNet id, tab, the first of WordNet's words, or all of them where
two classes share the first. Two classes are just "crane", the bird and the machine.
"""

import pathlib
from collections.abc import Iterable

_LINES = pathlib.Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
_NAMES = dict(line.split("\t") for line in _LINES)
CLASSES = tuple(_NAMES)  # WordNet ids; the index is the label


def names(classes: Iterable[str]) -> list[str]:
    """Words for classes that are ImageNet's WordNet ids; any other class is its own name."""
    return [_NAMES.get(name, name) for name in classes]
