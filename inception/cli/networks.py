"""Types of flags that name networks, and the views of an image that they see."""

import argparse
import os


def folders(text: str) -> list[str]:
    """'a,b' -> ['a', 'b']; an existing folder's name may contain commas."""
    names, rest = [], text.split(",")
    while rest:
        starts = range(len(rest), 1, -1)
        whole = (n for n in starts if os.path.isdir(os.path.expanduser(",".join(rest[:n]))))
        count = next(whole, 1)
        names.append(",".join(rest[:count]))
        del rest[:count]
    if not any(names):
        raise argparse.ArgumentTypeError("give a folder")
    return [name for name in names if name]


def views(text: str) -> int:
    """'10' -> 10 crops of an image."""
    from inception.data.cropping import VIEWS

    if text not in map(str, VIEWS):
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(map(str, VIEWS))}")
    return int(text)


def several_views(text: str) -> list[int]:
    """'1,10' -> [1, 10]."""
    return [views(number) for number in text.split(",")]
