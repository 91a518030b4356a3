"""The page's figures: arrays and metrics in, SVG or PNG for HTML out."""

import base64
import functools
import html
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from inception.data import paths

# Epochs and values of one curve.
Series = tuple[Sequence[float], Sequence[float]]
# A run's name, and its series by (kind of line in metrics.jsonl, key).
Run = tuple[str, Callable[[str, str], Series]]

LOSSES = ("train/loss_main", "train/loss_4a", "train/loss_4d", "eval/loss")
ACCURACIES = ("train/top1", "train/top1_4a", "train/top1_4d", "eval/top1", "eval/top5")
WAITING = ("train/waiting_for_data",)
PANELS = {  # caption: label of the y axis, factor, curves by their names in TensorBoard
    "Loss per head": ("cross-entropy, nats", 1, LOSSES),
    "Accuracy per head": ("accuracy, %", 100, ACCURACIES),
    "Learning rate": ("learning rate", 1, ("train/learning_rate",)),
    "Throughput, without compilation and evaluation": (
        "images per second",
        1,
        ("train/images_per_second",),
    ),
    "Waiting for data": ("share of the time, %", 100, WAITING),
}
STYLES = ("-", "--", ":", "-", "--")  # for the curves of a panel


def captioned(content: str, caption: str) -> str:
    """A <figure> with HTML content and a plain-text caption."""
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def png(pixels: np.ndarray, alt: str) -> str:
    """uint8 [h, w, 3] -> an <img> with embedded data."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def drawable(name: str) -> str:
    """Makes a name safe for matplotlib: valid UTF-8, and no formula between dollars."""
    return name.encode(**paths.UTF8).decode("utf-8", "replace").replace("$", r"\$")


def _svg(draw: Callable[[Axes], None], *, size: tuple[float, float] = (6.0, 3.4)) -> str:
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        return _saved(figure)


def _saved(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def of_library(draw: Callable[[], Any], *, size: tuple[float, float]) -> str:
    """SVG of what a library draws with pyplot, in the library's own style."""
    from matplotlib import pyplot

    style: Any = {"backend": "agg", "figure.figsize": size, "savefig.bbox": "tight"}
    with matplotlib.rc_context(style), warnings.catch_warnings(action="ignore"):
        figure = draw().figure
        pyplot.close(figure)
        return _saved(figure)


def curves(runs: list[Run]) -> str:
    """Loss, accuracy, learning rate and speed over the epochs, the runs overlaid.

    With one run each curve has its own colour; with several each run has one.
    """
    several = len(runs) > 1

    def draw(ax: Axes, y_label: str, factor: float, lines: tuple) -> None:
        for r, (run, series) in enumerate(runs):
            name = drawable(run)
            for i, (line, style) in enumerate(zip(lines, STYLES, strict=False)):
                kind, key = line.split("/")
                x, y = series(kind, key)
                if x:
                    ax.plot(
                        x,
                        np.asarray(y) * factor,
                        style,
                        color=f"C{r if several else i}",
                        marker="o" if kind == "eval" else None,
                        markersize=4,
                        linewidth=1.6,
                        label=f"{name} {line}" if several else line,
                    )
        ax.set(xlabel="epoch", ylabel=y_label)
        ax.grid(alpha=0.25, which="both")
        if lines is LOSSES:  # an early evaluation's loss may be far above the rest
            ax.set_yscale("log")
        else:
            ax.set_ylim(0, 101 if factor == 100 else None)
        if ax.lines and (several or len(lines) > 1):
            ax.legend(frameon=False, fontsize=8)

    def is_empty(lines: tuple) -> bool:
        """No point above 0, or none above half a percent of a run that hardly waited for data."""
        least = 0.005 if lines is WAITING else 0.0
        points = (y for _, series in runs for line in lines for y in series(*line.split("/"))[1])
        return all(y is None or y <= least for y in points)

    return "".join(
        captioned(_svg(functools.partial(draw, y_label=y_label, factor=f, lines=lines)), caption)
        for caption, (y_label, f, lines) in PANELS.items()
        if not is_empty(lines)
    )


def by_depth(
    lines: Mapping[str, Mapping[str, float]], label: str, caption: str, *, log: bool = True
) -> str:
    """Draws a line for each name over the modules; on a log scale values of 0 are left out."""

    def draw(ax: Axes) -> None:
        for i, (name, values) in enumerate(lines.items()):
            drawn = [value or np.nan for value in values.values()] if log else [*values.values()]
            color = matplotlib.colormaps["viridis"](0.9 * i / max(1, len(lines) - 1))
            ax.plot([*values], drawn, "o-", color=color, markersize=3, label=name)
        ax.set(ylabel=label, yscale="log" if log else "linear")
        ax.grid(alpha=0.25, which="both")
        ax.tick_params(axis="x", labelsize=8, rotation=45)
        if len(lines) > 1:
            ax.figure.legend(loc="outside right upper", frameon=False, fontsize=7)

    return captioned(_svg(draw), caption)


def bars(rows: Sequence[tuple[str, float]], label: str, caption: str) -> str:
    """Draws each (name, value) as a bar with its value beside it, the first at the top."""
    names, values = zip(*rows, strict=True)

    def draw(ax: Axes) -> None:
        ax.bar_label(
            ax.barh(list(map(drawable, names)), values, color="C0"),
            fmt="%.3g",
            padding=3,
            fontsize=8,
        )
        ax.invert_yaxis()
        ax.margins(x=0.12, y=0.01)
        ax.set_xlabel(label)
        ax.tick_params(labelsize=8)

    return captioned(_svg(draw, size=(6.0, 0.8 + 0.19 * len(rows))), caption)


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    """Counts [true, guessed] as numbers, on colours of the share of the true class's images."""
    from sklearn.metrics import ConfusionMatrixDisplay  # takes a second

    def draw(ax: Axes) -> None:
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        display = ConfusionMatrixDisplay(shares, display_labels=list(map(drawable, names)))
        small = {"fontsize": 8}
        display.plot(ax=ax, cmap="Blues", colorbar=False, text_kw=small, xticks_rotation="vertical")
        for text, count in zip(display.text_.flat, counts.flat, strict=True):
            text.set_text(str(count))
        ax.tick_params(labelsize=8)

    side = 2.5 + 0.32 * len(names)
    caption = "Images by true and guessed class; darker: a larger share of the true class"
    return captioned(_svg(draw, size=(side, side)), caption)


def filters(kernels: np.ndarray, *, columns: int = 16) -> str:
    """Kernels [h, w, 3, n] as n tiles, each stretched to its own range."""
    low, high = kernels.min((0, 1, 2)), kernels.max((0, 1, 2))
    tiles = np.moveaxis((kernels - low) / np.maximum(high - low, 1e-12), -1, 0)
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (0, 0), (0, 0), (0, 0)), constant_values=1)
    tiles = (tiles * 255).round().astype(np.uint8)
    return png(montage(tiles.reshape(-1, columns, *tiles.shape[1:])), "filters")


def montage(tiles: np.ndarray) -> np.ndarray:
    """uint8 [rows, columns, h, w, 3] -> one picture, with a white pixel between tiles."""
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    rows, columns, h, w, _ = tiles.shape
    return tiles.swapaxes(1, 2).reshape(rows * h, columns * w, 3)
