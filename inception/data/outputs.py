"""Files that a command writes where its flags say."""

import os

from inception import UserError
from inception.data import paths


def check(*, make_folders: bool = True, **outputs: tuple[str, bytes]) -> None:
    """Before the work, raises UserError if a file cannot be written, or two flags name one file.

    Args:
        make_folders: whether the writer creates the files' folders, as `write` does.
        outputs: flag=(the file, or '' for none; the `kind` of `paths.check_writable`).
    """
    named: dict[str, str] = {}
    for flag, (file, kind) in outputs.items():
        if not file:
            continue
        path = paths.at(file)
        if (other := named.setdefault(os.path.realpath(path), flag)) != flag:
            raise UserError(f"`{other}` and `{flag}` are both {file}: name two files")
        with paths.explained(f"`{flag}`={file} cannot be written"):
            first = next((p for p in path.parents if p.exists()), None)
            if make_folders and first and not first.is_dir():
                raise NotADirectoryError(f"{first} is no folder")
            if not make_folders or first == path.parent:
                paths.check_writable(path, kind)


def write(output: str, content: str | bytes, *, flag: str = "output") -> None:
    """Writes the file `output` and creates its folder; UserError if this fails."""
    with paths.explained(f"`{flag}`={output} cannot be written"):
        path = paths.at(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.write_whole(path, content)
