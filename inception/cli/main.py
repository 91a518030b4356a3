"""The command line: what launch.py calls."""

import re
from collections.abc import Collection

from inception.config import knob_names


def as_flags(text: str, flags: Collection[str]) -> str:
    """A message with its backquoted parameters as a command's flags, and knobs as config.KNOB.

    `output` -> --output, `path` -> config.data.path, `path=...`, which is to be given, ->
    --config.data.path=...

    Args:
        flags: the command's own, which come before knobs of the same name.
    """

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2] or ""
        if name in flags:
            return f"--{name}{value}"
        known = [k for k in knob_names() if k == name or k.endswith(f".{name}")]
        if not known:
            is_group = any(k.startswith(f"{name}.") for k in knob_names())
            return f"config.{name}" if is_group else name + value
        return f"{'--' if value else ''}config.{min(known, key=len)}{value}"

    return re.sub(r"`([a-z][\w.]*)(=[^`]*)?`", flag, text)
