"""What a tool found, for people; `--json` gives the same names and values."""

from typing import Any

from tabulate import tabulate


def to_text(result: dict[str, Any]) -> str:
    """A line for each value; lists of rows as tables."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines += ["", f"{name}:", to_text(value)]
        elif isinstance(value, list):
            lines += ["", f"{name}:", tabulate(value, "keys", "plain", ".3g", ",", missingval="-")]
        else:
            number = isinstance(value, (int, float))
            lines.append(f"{name:<26}{f'{round(value, 3):,}' if number else value}")
    return "\n".join(lines).lstrip()
