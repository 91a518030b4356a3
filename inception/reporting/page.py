"""The run page: one self-contained HTML file about one run or several."""

import collections
import functools
import html
import pathlib
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from inception import UserError
from inception.config import STARTED_AS, run_config
from inception.data import cropping, decoding, imagenet, outputs, pipeline
from inception.data.sources import Source
from inception.knobs import TRUNK
from inception.reporting import figures, markup, samples, table
from inception.reporting.table import Run, read_runs
from inception.runtime import checkpoint

MOST_LINES = 5  # of a figure by depth
MOST_CELLS = 30  # classes; of more, only the most frequent confusions are listed
CSS = """
.matrix { max-width: 560px }
.filters { max-width: 560px; image-rendering: pixelated }
.mistakes { display: grid; gap: .8rem; margin-bottom: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)) }
.mistakes img { border-radius: 4px }
.best img { outline: 3px solid #16a34a }
.warning { background: #fff2e0; border-left: 4px solid #d97706; padding: .5rem .8rem;
  color: #1d2330 }
.result { font-size: 1.15rem; margin: .3rem 0 }
.result b { font-size: 2.2rem }
"""


def check_output(output: str) -> None:
    """Raises UserError before the work if `write` would fail, or replace another kind of file."""
    kind = b"experiment,changes,runs," if output.endswith(".csv") else markup.KIND
    outputs.check(output=(output, kind))


def write(workdirs: list[str], output: str) -> None:
    """Writes a self-contained HTML page about one run or several, or a CSV table.

    Args:
        workdirs: folders of runs, or of studies, which stand for all their runs. The page overlays
            the runs' curves; the table has one line for runs that differ only in seeds.
        output: the file; with the suffix .csv, the table.

    Raises:
        UserError: a folder that is no run; for the table, a run that is not finished; a file that
            cannot be written.
    """
    runs = read_runs(workdirs)
    outputs.write(output, table.of_runs(runs) if output.endswith(".csv") else _page(runs))


def _page(runs: list[Run]) -> str:
    title = f"GoogLeNet: {', '.join(run.name for run in runs)}"
    curves = figures.curves([(run.name, run.series) for run in runs])
    body = f'<h1>{html.escape(title)}</h1>{_summary(runs)}<div class="grid">{curves}</div>'
    for run in runs:
        body += f"<h1>{html.escape(run.name)}</h1>" if len(runs) > 1 else ""
        body += _details(run)
    return markup.document(title, CSS, body)


def _summary(runs: list[Run]) -> str:
    """What one run reached, and what to do next; a table of several."""
    if len(runs) == 1:
        return _outcome(runs[0])
    rows = []
    for run in runs:
        rates = run.series("train", "images_per_second")[1]
        result = run.result or {}
        rows.append(
            [
                run.name,
                max((row["step"] for row in run.metrics), default=0),
                *(100 - result[key] if result else None for key in ("top1_error", "top5_error")),
                result.get("count"),
                markup.fixed(float(np.median(rates)) if rates else None, 1),
            ]
        )
    header = ("run", "steps", "top-1, %", "top-5, %", "images evaluated", "images/s, median")
    return markup.table(rows, header, numeric=[5])


def _outcome(run: Run) -> str:
    starts, rates = run.kind("start"), run.series("train", "images_per_second")[1]
    step = max((row["step"] for row in run.metrics), default=0)
    pace = f", {markup.fixed(float(np.median(rates)), 1)} images/s (median)" if rates else ""
    if not run.result:
        command = starts[-1]["command"] if starts else ""
        again = f" Resume:</p><pre>{html.escape(command)}</pre>" if command else "</p>"
        evaluated = run.series("eval", "top1")[1]
        so_far = f"; top-1 accuracy {evaluated[-1]:.2%} so far" if evaluated else ""
        return f'<p class="result">Not finished: step {step}{pace}{so_far}.{again}'
    top1, top5 = (100 - run.result[f"{name}_error"] for name in ("top1", "top5"))
    fifth = f", {top5:.2f}% top-5" if len(run.result["classes"]) > 5 else ""
    steps = f"{step} steps{pace}. " if starts else ""
    folder = shlex.quote(str(run.workdir))
    following = (
        f"{STARTED_AS} predict --checkpoint={folder} --cam=maps PICTURE\n"
        f"{STARTED_AS} export --checkpoint={folder} --output=network.safetensors"
    )
    return (
        f'<p class="result"><b>{top1:.2f}%</b> top-1 accuracy{fifth} on '
        f"{run.result['count']:,} images of split {html.escape(run.result['split'])}.</p>"
        f"<p>Finished: {steps}What next:</p><pre>{html.escape(following)}</pre>"
    )


def _details(run: Run) -> str:
    config = run_config(run.workdir, [])
    starts = run.kind("start")
    commands = "\n".join(row["command"] for row in starts)
    known = starts[-1].items() if starts else ()
    machine = [[k, str(v)] for k, v in known if k not in ("kind", "step", "command")]
    damaged = [[row["step"], row["image"]] for row in run.kind("damaged")]
    parts = [
        f'<p class="warning">Step {row["step"]}: {html.escape(row["text"])}</p>'
        for row in run.kind("warning")
    ]
    sections = {
        "Confusion": _confusion(run.result) if run.result else "",
        "Worst mistakes": _readable(_mistakes, config, run.result) if run.result else "",
        "What the network sees in training": _readable(_crops, config),
        "First-layer filters": _filters(run),
        "Gradients by depth": _norms(run),
        "Damaged images, skipped": markup.table(damaged, ("step", "image")) if damaged else "",
        "Command": f"<pre>{html.escape(commands)}</pre>" if commands else "",
        "Environment": markup.table(machine) if machine else "",
        "Config": f"<pre>{html.escape(str(ConfigDict(run.config)))}</pre>",
    }
    parts += [f"<h2>{title}</h2>{content}" for title, content in sections.items() if content]
    return "".join(parts)


def _confusion(result: dict[str, Any]) -> str:
    classes = imagenet.names(result["classes"])
    if len(classes) > MOST_CELLS:
        wrong = [(n, true, guess) for true, guess, n in result["confusion"] if true != guess]
        of_class = collections.Counter[int]()
        for true, _, n in result["confusion"]:
            of_class[true] += n
        name = functools.partial(_class_name, classes)
        rows = [
            [name(true), name(guess), n, f"{n / of_class[true]:.1%}"]
            for n, true, guess in sorted(wrong, reverse=True)[:20]
        ]
        return markup.table(rows, ("true", "guessed", "times", "of the class"))
    names = [*classes, "other"]  # outputs without a class name
    counts = np.zeros((len(names), len(names)), int)
    for true, guess, n in result["confusion"]:
        counts[true, min(guess, len(classes))] += n
    if not counts[:, -1].any():
        names, counts = classes, counts[:-1, :-1]
    return f'<div class="matrix">{figures.confusion_matrix(counts, names)}</div>'


def _class_name(classes: list[str], index: int) -> str:
    return classes[index] if index < len(classes) else f"class {index}"


def _readable(draw: Callable[..., str], *arguments: Any) -> str:
    """The HTML of `draw`, or the reason why the images cannot be read."""
    try:
        return draw(*arguments)
    except UserError as error:
        text = str(error).replace("`", "")  # around the names of parameters
        return f"<p>The images cannot be read: {html.escape(text)}</p>"


def _mistakes(config: ConfigDict, result: dict[str, Any]) -> str:
    """The wrong guesses with the highest loss by class, after the class's best right one.

    Pictures are as the network saw them; those of files link to the files.
    """
    if not result["mistakes"]:
        return "<p>None: every guess was right.</p>"
    source = pipeline.open_split(config, result["split"])
    views = cropping.Views((1,), config.input_px, config.data.resize_px, config.data.resize)
    card = functools.partial(_card, config, source, views, imagenet.names(result["classes"]))
    best = {image["label"]: card(image, "best") for image in result.get("best", ())}
    rows: dict[int, list[str]] = {}
    for image in result["mistakes"]:
        label = image["label"]
        rows.setdefault(label, [best[label]] if label in best else []).append(card(image, "wrong"))
    grids = [f'<div class="mistakes">{"".join(cards)}</div>' for cards in rows.values()]
    return f"<p>A row a class; green: its surest right one.</p>{''.join(grids)}"


def _card(
    config: ConfigDict,
    source: Source,
    views: cropping.Views,
    classes: list[str],
    image: dict[str, Any],
    kind: str,
) -> str:
    """An image of eval.json with its guesses; `kind` is the card's style."""
    index, name = image["index"], image["name"]
    try:
        if source.name(index) != name:
            raise LookupError("the set has changed")
        reading = {knob: config.data[knob] for knob in pipeline.READING}
        picture = decoding.decode(source[index][0], name, **reading)
        drawn = figures.png(views.of(picture)[0], name)
    except (OSError, LookupError, decoding.DamagedImageError) as error:
        drawn = f"<p>no picture: {html.escape(str(error))}</p>"
    file = pathlib.Path(name)
    if file.is_file():
        link = html.escape(file.resolve().as_uri())
        drawn = f'<a href="{link}" title="{html.escape(file.name)}">{drawn}</a>'
    guesses = ", ".join(f"{_class_name(classes, c)} {p:.0%}" for c, p in image["guesses"][:3])
    text = f"{_class_name(classes, image['label'])}: guessed {guesses}"
    return f'<div class="{kind}">{figures.captioned(drawn, text)}</div>'


def _crops(config: ConfigDict) -> str:
    """Crops of a few training images, as the network sees them."""
    crops = samples.training_crops(config)
    caption = "First the whole image, squashed; then its crops as in training, with changed colours"
    if config.data.mixup or config.data.cutmix:
        caption += ", mixed with the crops of the row above"
    return figures.captioned(figures.png(figures.montage(crops), "training crops"), caption)


def _filters(run: Run) -> str:
    state: Any = checkpoint.Checkpoints(run.workdir, read_only=True).restore(None)
    if state is None:
        return "<p>No checkpoint yet.</p>"
    params = (state["average"] or state)["params"]
    kernels = np.asarray(params["conv1"]["Conv_0"]["kernel"])  # [7, 7, 3, filters]
    caption = (
        f"conv1: {kernels.shape[-1]} filters of 7x7 at step {int(state['step'])}, each stretched "
        "to its own range"
    )
    return f'<div class="filters">{figures.captioned(figures.filters(kernels), caption)}</div>'


def _norms(run: Run) -> str:
    """Norms by module, of a few steps from the first to the last."""
    rows = run.kind("norms")
    if not rows:
        return ""
    picked = np.unique(np.linspace(0, len(rows) - 1, MOST_LINES).round().astype(int))
    found = {f"step {rows[i]['step']}": rows[i] for i in picked}
    names = [key.removeprefix("gradient/") for key in rows[0] if key.startswith("gradient/")]
    modules = sorted(names, key=lambda name: (TRUNK.index(name) if name in TRUNK else 99, name))
    drawn = figures.by_depth(
        {step: {m: row[f"gradient/{m}"] for m in modules} for step, row in found.items()},
        "norm of the gradient",
        "Gradient by depth, of the whole loss",
    )
    relative = {
        step: {m: row[f"update/{m}"] / (row[f"weights/{m}"] or np.inf) for m in modules}
        for step, row in found.items()
    }
    drawn += figures.by_depth(
        relative,
        "norm of the update / norm of the weights",
        "Update by depth: the share of a module's weights that one step changes",
    )
    return f'<div class="grid">{drawn}</div>'
