"""The result of a tool as text for people; `--json` prints the same names and values."""

from typing import Any

from tabulate import tabulate


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else value


def to_text(result: dict[str, Any]) -> str:
    """A line for each value; lists of rows become tables."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines += ["", f"{name}:", to_text(value)]
        elif isinstance(value, list):
            lines += ["", f"{name}:", tabulate(value, "keys", "plain", ".3g", ",", missingval="-")]
        else:
            lines.append(f"{name:<26}{_shown(value)}")
    return "\n".join(lines).lstrip()
