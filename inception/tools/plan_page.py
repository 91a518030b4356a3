"""The page about a program for devices not on this machine: `plan --topology --output`."""

import html
from typing import Any

from inception.reporting import figures, markup

FACTS = {  # name on the page: (key of the plan, factor, unit)
    "time of a step": ("estimated_seconds", 1e3, "ms"),
    "images a second": ("images_per_second", 1, ""),
    "FLOPs of a step": ("flops", 1e-9, "GFLOP a device"),
    "bytes moved": ("moved_bytes", 1e-9, "GB a device"),
    "kernels": ("kernels", 1, "instructions"),
    "compiler's cycles": ("cycles", 1e-6, "million"),
    "peak memory": ("memory_bytes", 1e-9, "GB a device"),
    "... of it arguments": ("argument_bytes", 1e-9, "GB"),
    "... and temporary": ("temporary_bytes", 1e-9, "GB"),
    "memory of a device": ("device_memory_bytes", 1e-9, "GB"),
    "hours of training": ("hours", 1, ""),
    "epochs a day": ("epochs_a_day", 1, ""),
}
COLUMNS = ("ms", "share, %", "GB", "GFLOP", "kernels")


def page(plan: dict[str, Any]) -> str:
    """The result of `elsewhere.plan` as HTML."""
    title = (
        f"{plan['what']} on {plan['topology']}: {plan['batch_size']} images on "
        f"{plan['devices']} device(s)"
    )
    facts = [
        [name, f"{_number(plan[key] * factor)} {unit}"]
        for name, (key, factor, unit) in FACTS.items()
        if plan[key] is not None
    ]
    body = f"<h1>{html.escape(title)}</h1>{markup.table(facts)}"
    body += f"<p>The time is a model: {html.escape(plan['model'])}.</p>"
    parts = {"Layer by layer": plan["layers"], "By operation": plan["operations"]}
    body += '<div class="grid">'
    for caption, rows in parts.items():
        values = [(row["name"], row["seconds"] * 1e3) for row in rows]
        body += figures.bars(values, "ms of a step", caption)
    body += "</div>"
    for caption, rows in parts.items():
        body += f"<h2>{caption}</h2>{_table(rows)}"
    if plan["collectives"]:
        sent = [list(row.values()) for row in plan["collectives"]]
        header = list(plan["collectives"][0])
        body += f"<h2>Collectives</h2>{markup.table(sent, header)}"
    return markup.document(title, "th { text-align: right }", body)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _table(rows: list[dict[str, Any]]) -> str:
    def cells(row: dict[str, Any]) -> list[Any]:
        moved, flops = row["bytes"] / 1e9, row["flops"] / 1e9
        values = (row["seconds"] * 1e3, row["share"] * 100, moved, flops)
        return [row["name"], *(f"{value:,.3f}" for value in values), row["kernels"]]

    numeric = range(1, 1 + len(COLUMNS))
    return markup.table([cells(row) for row in rows], ("", *COLUMNS), numeric=numeric)
