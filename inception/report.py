"""The run page: one self-contained HTML file with what a person wants to know of runs."""

import base64
import html
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image

from inception import UserError, checkpoint, evaluate, monitor
from inception.data import images

HEADS = {"main": "-", "4a": "--", "4d": ":"}  # line style
MOST_CELLS = 30  # classes up to which the confusion matrix is drawn whole
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2330; margin: 0 auto; max-width: 1240px;
  padding: 1rem 1.25rem 3rem; background: #fff }
h1 { font-size: 1.6rem; margin: .5rem 0 } h2 { font-size: 1.2rem; margin: 2rem 0 .6rem }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)) }
figure { margin: 0 } figure svg, figure img { width: 100%; height: auto; display: block }
figcaption { color: #566; font-size: .85rem }
.mistakes { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)) }
.mistakes img { width: 100%; image-rendering: auto; border-radius: 4px }
.filters { max-width: 420px } .filters img, .matrix { image-rendering: pixelated }
table { border-collapse: collapse; margin: .4rem 0 } .wide { overflow-x: auto }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #e4e7ee; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f5f6f9; padding: .7rem .9rem; border-radius: 6px; overflow-x: auto; font-size: .85rem }
.warning { background: #fff2e0; border-left: 4px solid #d97706; padding: .5rem .8rem; margin: .5rem 0 }
"""


def environment() -> dict[str, Any]:
    """Versions, devices, machine and commit of this process, for the record of a run."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    here = pathlib.Path(__file__).parent
    try:
        git = ("git", "-C", str(here))
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout
        commit += " with local changes" if dirty.strip() else ""
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "commit": commit,
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _svg(draw: Callable[[Axes], None], *, size: tuple[float, float] = (6.0, 3.4)) -> str:
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _picture(pixels: np.ndarray, alt: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(rows: list[list[Any]], *, header: list[str] | None = None) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, (int, float)):
            return (
                f'<td class="n">{value:,.2f}</td>'
                if isinstance(value, float)
                else (f'<td class="n">{value:,}</td>')
            )
        return f"<td>{html.escape(str(value))}</td>"

    head = "".join(f"<th>{html.escape(h)}</th>" for h in header or ())
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'


class _Run:
    """What a workdir holds, read once."""

    def __init__(self, workdir: str):
        path = pathlib.Path(workdir)
        if not (path / "config.json").exists():
            raise UserError(f"{workdir} is not a run: it has no config.json")
        self.workdir = workdir
        self.name = path.resolve().name
        self.config = json.loads((path / "config.json").read_text())
        self.metrics = monitor.read_metrics(workdir)
        result = path / "eval.json"
        self.result = json.loads(result.read_text()) if result.exists() else None

    def kind(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.metrics if row["kind"] == kind]

    def series(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        rows = [row for row in self.kind(kind) if key in row]
        return [row["epoch"] for row in rows], [row[key] for row in rows]


def _curves(runs: list[_Run]) -> str:
    several = len(runs) > 1

    def draw(ax: Axes, lines: list[tuple[str, str, str, str]], scale: float = 1.0) -> None:
        for r, run in enumerate(runs):
            for i, (kind, key, label, style) in enumerate(lines):
                x, y = run.series(kind, key)
                if x:
                    ax.plot(
                        x,
                        np.asarray(y) * scale,
                        style,
                        color=f"C{r if several else i}",
                        marker="o" if kind == "eval" else None,
                        markersize=4,
                        linewidth=1.6,
                        label=f"{run.name}: {label}" if several else label,
                    )
        ax.set_xlabel("epoch")
        ax.grid(alpha=0.25)
        if ax.lines and (several or len(lines) > 1):
            ax.legend(frameon=False, fontsize=8)

    def loss(ax: Axes) -> None:
        heads = [("train", f"loss_{h}", f"{h}, training", s) for h, s in HEADS.items()]
        draw(ax, [*heads, ("eval", "loss", "main, evaluation", "-")])
        ax.set_ylabel("cross-entropy, nats")
        ax.set_ylim(bottom=0)

    def accuracy(ax: Axes) -> None:
        keys = {"main": "top1", "4a": "top1_4a", "4d": "top1_4d"}
        heads = [("train", keys[h], f"{h}, training", s) for h, s in HEADS.items()]
        draw(
            ax,
            [
                *heads,
                ("eval", "top1", "top-1, evaluation", "-"),
                ("eval", "top5", "top-5, evaluation", "--"),
            ],
            100,
        )
        ax.set_ylabel("accuracy, %")
        ax.set_ylim(0, 101)

    def rate(ax: Axes) -> None:
        draw(ax, [("train", "learning_rate", "learning rate", "-")])
        ax.set_ylabel("learning rate")
        ax.set_ylim(bottom=0)

    def throughput(ax: Axes) -> None:
        draw(ax, [("train", "images_per_second", "images/s", "-")])
        ax.set_ylabel("images per second")
        ax.set_ylim(bottom=0)

    captions = {
        loss: "Loss per head",
        accuracy: "Accuracy per head",
        rate: "Learning rate",
        throughput: "Throughput, compilation and evaluation apart",
    }
    figures = "".join(_figure(_svg(f), caption) for f, caption in captions.items())
    return f'<div class="grid">{figures}</div>'


def _class_name(classes: list[str], index: int) -> str:
    return classes[index] if index < len(classes) else f"class {index}"


def _confusion(result: dict[str, Any]) -> str:
    classes = result["classes"]
    wrong = [(n, t, p) for t, p, n in result["confusion"] if t != p]
    if len(classes) > MOST_CELLS:
        rows = [
            [_class_name(classes, t), _class_name(classes, p), n]
            for n, t, p in sorted(wrong, reverse=True)[:20]
        ]
        return _table(rows, header=["true", "guessed", "times"])
    matrix = np.zeros((len(classes), len(classes) + 1), int)  # last: a class without a name
    for true, guess, n in result["confusion"]:
        matrix[true, min(guess, len(classes))] += n
    if not matrix[:, -1].any():
        matrix = matrix[:, :-1]
    names = [*classes, "other"][: matrix.shape[1]]

    def draw(ax: Axes) -> None:
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (i, j), n in np.ndenumerate(matrix):
            if n:
                color = "white" if share[i, j] > 0.5 else "#1d2330"
                ax.text(j, i, n, ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(range(len(names)), names, rotation=0 if len(names) <= 10 else 90, fontsize=8)
        ax.set_yticks(range(len(classes)), classes, fontsize=8)
        ax.set_xlabel("guessed")
        ax.set_ylabel("true")

    side = 2.5 + 0.32 * len(classes)
    return _figure(_svg(draw, size=(side, side)), "How many images of each class got which guess")


def _mistakes(run: _Run) -> str:
    """The wrong guesses with the highest loss, drawn as the network saw them."""
    mistakes, classes = run.result["mistakes"], run.result["classes"]
    if not mistakes:
        return "<p>None: every guess was right.</p>"
    config = ConfigDict(run.config)
    try:
        source = evaluate.open_split(config, run.result["split"])
    except UserError as error:
        source = None
        note = f"<p>Without pictures: {html.escape(str(error))}</p>"
    cards = []
    for m in mistakes:
        picture = ""
        if source is not None:
            image = images.decode(
                source[m["index"]][0], m["name"], max_megapixels=config.data.max_megapixels
            )
            view = images.center_view(
                image,
                input_px=config.input_px,
                resize_px=config.data.resize_px,
                resize=config.data.resize,
            )
            picture = _picture(view, m["name"])
        guesses = ", ".join(f"{_class_name(classes, c)} {p:.0%}" for c, p in m["guesses"][:3])
        truth = _class_name(classes, m["label"])
        cards.append(_figure(picture, f"is {truth}; guessed {guesses} ({m['name']})"))
    return ("" if source else note) + f'<div class="mistakes">{"".join(cards)}</div>'


def _filters(run: _Run) -> str:
    state = checkpoint.Checkpoints(run.workdir, read_only=True).restore(None)
    if state is None:
        return "<p>No checkpoint yet.</p>"
    params = (state["average"] or state)["params"]
    kernels = np.asarray(params["conv1"]["Conv_0"]["kernel"])  # [7, 7, 3, filters]
    low, high = kernels.min((0, 1, 2)), kernels.max((0, 1, 2))
    tiles = np.moveaxis((kernels - low) / np.maximum(high - low, 1e-12), -1, 0)
    columns = 16
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (0, 1), (0, 1), (0, 0)), constant_values=1)
    rows = tiles.reshape(-1, columns, *tiles.shape[1:]).swapaxes(1, 2)  # [r, 8, columns, 8, 3]
    montage = (rows.reshape(rows.shape[0] * rows.shape[1], -1, 3) * 255).round().astype(np.uint8)
    picture = np.kron(montage, np.ones((4, 4, 1), np.uint8))
    step = int(state["step"])
    return f'<div class="filters">{_figure(_picture(picture, "filters"), f"conv1: {kernels.shape[-1]} filters of 7x7 at step {step}, each stretched to its own range")}</div>'


def _details(run: _Run) -> str:
    starts = run.kind("start")
    warnings = "".join(
        f'<p class="warning">Step {row["step"]}: {html.escape(row["text"])}</p>'
        for row in run.kind("warning")
    )
    damaged = [[row["step"], row["image"]] for row in run.kind("damaged")]
    parts = [f"<h1>{html.escape(run.name)}</h1>" if run else "", warnings]
    if run.result:
        parts += ["<h2>Confusion</h2>", _confusion(run.result)]
        parts += ["<h2>Worst mistakes</h2>", _mistakes(run)]
    parts += ["<h2>First-layer filters</h2>", _filters(run)]
    if damaged:
        parts += ["<h2>Damaged images, skipped</h2>", _table(damaged, header=["step", "image"])]
    commands = "\n".join(row["command"] for row in starts if row["command"])
    parts += ["<h2>Command</h2>", f"<pre>{html.escape(commands)}</pre>"]
    if starts:
        known = {k: v for k, v in starts[-1].items() if k not in ("kind", "step", "command")}
        parts += ["<h2>Environment</h2>", _table([[k, str(v)] for k, v in known.items()])]
    config = html.escape(ConfigDict(run.config).__str__())
    parts += ["<h2>Config</h2>", f"<pre>{config}</pre>"]
    return "".join(parts)


def _summary(runs: list[_Run]) -> str:
    rows = []
    for run in runs:
        rates = run.series("train", "images_per_second")[1]
        result = run.result or {}
        rows.append(
            [
                run.name,
                max((row["step"] for row in run.metrics), default=0),
                100 - result["top1_error"] if result else "not yet",
                100 - result["top5_error"] if result else "not yet",
                result.get("count", "not yet"),
                float(np.median(rates)) if rates else "not yet",
            ]
        )
    header = ["run", "steps", "top-1, %", "top-5, %", "images evaluated", "images/s, median"]
    return _table(rows, header=header)


def write_page(workdirs: list[str], output: str) -> str:
    """Writes one HTML file about one run or several; nothing in it is loaded from elsewhere.

    Args:
        workdirs: of runs; their curves are overlaid.
        output: the file.

    Returns:
        `output`.

    Raises:
        UserError: a folder that is no run; a file that cannot be written.
    """
    runs = [_Run(workdir) for workdir in workdirs]
    title = ", ".join(run.name for run in runs)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>GoogLeNet: {html.escape(title)}</title><style>{CSS}</style>"
        f"<h1>GoogLeNet: {html.escape(title)}</h1>{_summary(runs)}{_curves(runs)}"
        + "".join(_details(run) for run in runs)
        + "</html>\n"
    )
    try:
        path = pathlib.Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error}") from error
    return output
