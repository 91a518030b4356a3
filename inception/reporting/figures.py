"""The page's pictures: arrays and metrics in, SVG or PNG for HTML out."""

import base64
import functools
import html
import io
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image

# Epochs and values of one curve.
Series = tuple[Sequence[float], Sequence[float]]
# A run's name, and its series by (kind of line in metrics.jsonl, key).
Run = tuple[str, Callable[[str, str], Series]]
# A name, where each point lies on it (0-1; below 0: nowhere), and ticks (position, label).
Axis = tuple[str, Sequence[float], Sequence[tuple[float, str]]]

LOSSES = ("train/loss_main", "train/loss_4a", "train/loss_4d", "eval/loss")
ACCURACIES = ("train/top1", "train/top1_4a", "train/top1_4d", "eval/top1", "eval/top5")
PANELS = {  # caption: label of the y axis, factor, its curves, called as in TensorBoard
    "Loss per head": ("cross-entropy, nats", 1, LOSSES),
    "Accuracy per head": ("accuracy, %", 100, ACCURACIES),
    "Learning rate": ("learning rate", 1, ("train/learning_rate",)),
    "Throughput, compilation and evaluation apart": (
        "images per second",
        1,
        ("train/images_per_second",),
    ),
    "Waiting for data": ("share of the time, %", 100, ("train/waiting_for_data",)),
}
STYLES = ("-", "--", ":", "-", "--")  # of a panel's curves


def captioned(content: str, caption: str) -> str:
    """A <figure> of some HTML and a caption of plain text."""
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def png(pixels: np.ndarray, alt: str) -> str:
    """uint8 [h, w, 3] -> an <img> that carries its data."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def _svg(draw: Callable[[Axes], None], *, size: tuple[float, float] = (6.0, 3.4)) -> str:
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _over_epochs(ax: Axes, y_label: str, *, log: bool, top: float | None) -> None:
    """Labels and scales of curves: y is logarithmic, or from 0 to `top`."""
    ax.set_xlabel("epoch")
    ax.set_ylabel(y_label)
    if log:
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, top)
    ax.grid(alpha=0.25, which="both")


def curves(runs: list[Run]) -> str:
    """Loss, accuracy, learning rate and speed over the epochs, the runs overlaid.

    One run has a colour for each curve, several have a colour each.
    """
    several = len(runs) > 1

    def draw(ax: Axes, y_label: str, factor: float, lines: tuple) -> None:
        for r, (name, series) in enumerate(runs):
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
        # The loss of an early evaluation may be far above the rest.
        _over_epochs(ax, y_label, log=lines is LOSSES, top=101 if factor == 100 else None)
        if ax.lines and (several or len(lines) > 1):
            ax.legend(frameon=False, fontsize=8)

    return "".join(
        captioned(_svg(functools.partial(draw, y_label=y_label, factor=f, lines=lines)), caption)
        for caption, (y_label, f, lines) in PANELS.items()
    )


def _shade(value: float) -> tuple[float, ...]:
    """The colour of a value, 0-1; the palest end of the scale is left out."""
    return matplotlib.colormaps["viridis"](0.85 * value)


def study_curves(
    lines: Sequence[tuple[Series, float, bool]],
    *,
    legend: Sequence[tuple[float, str]],
    best: int | None,
    best_label: str,
) -> str:
    """Top-1 of many points over the epochs, as accuracy and as error, overlaid.

    Args:
        lines: epochs and percent; a value of the colour scale, 0-1; whether the point is finished,
            for others are dashed.
        legend: values of the colour scale, and what they mean.
        best: index of the line that stands out.
    """
    errors = [100 - y for (_, ys), _, _ in lines for y in ys if y < 100]
    floor = min(errors, default=1) / 2  # where no error at all is drawn

    def draw(ax: Axes, error: bool) -> None:
        for i, ((x, y), shade, finished) in enumerate(lines):
            stands_out = i == best
            ax.plot(
                x,
                np.maximum(100 - np.asarray(y), floor) if error else y,
                "-" if finished else "--",
                color="black" if stands_out else _shade(shade),
                linewidth=2.4 if stands_out else 1,
                marker="o" if len(x) == 1 else None,
                markersize=4,
                alpha=1 if stands_out else 0.75,
                zorder=3 if stands_out else 2,
            )
        _over_epochs(ax, "top-1 error, %" if error else "top-1, %", log=error, top=101)
        if error:
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter("")
        for shade, label in legend:
            ax.plot([], [], color=_shade(shade), label=label)
        if best is not None:
            ax.plot([], [], color="black", linewidth=2.4, label=best_label)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(
                frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1)
            )

    return "".join(
        captioned(_svg(functools.partial(draw, error=error), size=(6, 4)), caption)
        for error, caption in (
            (False, "Top-1 of every point on the evaluation split; dashed: not finished"),
            (True, "The same as error, on a logarithmic scale"),
        )
    )


def parallel_coordinates(axes: Sequence[Axis], values: Sequence[float]) -> str:
    """A line for each point through its position on every axis, coloured by its value, 0-1."""

    def draw(ax: Axes) -> None:
        spread = np.linspace(-0.03, 0.03, len(values))  # points of a grid would hide each other
        lines = np.stack([np.asarray(y) + spread * (len(set(y)) < len(y)) for _, y, _ in axes], 1)
        for i in np.argsort(values):  # the best on top
            ax.plot(lines[i], color=_shade(values[i]), linewidth=1.2, alpha=0.8)
        for x, (_, _, ticks) in enumerate(axes):
            ax.axvline(x, color="#566", linewidth=0.8)
            for y, label in ticks:
                ax.annotate(
                    label,
                    (x, y),
                    (4, 0),
                    textcoords="offset points",
                    fontsize=8,
                    va="center",
                    bbox={"boxstyle": "round,pad=.1", "color": "white", "alpha": 0.8},
                )
        ax.set_xticks(range(len(axes)), [name for name, _, _ in axes])
        ax.set_xlim(-0.1, len(axes) - 0.65)
        ax.tick_params(length=0)
        ax.set_yticks([])
        ax.spines[:].set_visible(False)

    return _svg(draw, size=(max(6.0, 1.7 * len(axes)), 4))


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    """Counts [true, guessed], of as many names as there are, as a heat map with numbers."""
    from sklearn.metrics import ConfusionMatrixDisplay  # takes a second

    def draw(ax: Axes) -> None:
        display = ConfusionMatrixDisplay(counts, display_labels=names)
        small = {"fontsize": 8}
        display.plot(ax=ax, cmap="Blues", colorbar=False, text_kw=small, xticks_rotation="vertical")
        ax.tick_params(labelsize=8)

    side = 2.5 + 0.32 * len(names)
    return captioned(_svg(draw, size=(side, side)), "How many images of each class got which guess")


def filters(kernels: np.ndarray, *, columns: int = 16) -> str:
    """Kernels [h, w, 3, n] as n tiles, each stretched to its own range."""
    low, high = kernels.min((0, 1, 2)), kernels.max((0, 1, 2))
    tiles = np.moveaxis((kernels - low) / np.maximum(high - low, 1e-12), -1, 0)
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (0, 0), (0, 0), (0, 0)), constant_values=1)
    tiles = (tiles * 255).round().astype(np.uint8)
    return png(montage(tiles.reshape(-1, columns, *tiles.shape[1:])), "filters")


def montage(tiles: np.ndarray) -> np.ndarray:
    """uint8 [rows, columns, h, w, 3] -> one picture, the tiles a white pixel apart."""
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    rows, columns, h, w, _ = tiles.shape
    return tiles.swapaxes(1, 2).reshape(rows * h, columns * w, 3)
