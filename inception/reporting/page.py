"""The run page, one self-contained HTML file; or many runs as a table."""

import csv
import html
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from inception import UserError
from inception.data import cropping, decoding, imagenet, paths, pipeline, sources
from inception.reporting import figures, monitor, samples
from inception.runtime import checkpoint

MOST_CELLS = 30  # classes up to which the confusion matrix is drawn whole
# Flags of `train` that do not make the result, and those of which runs may be alike.
NO_MATTER = re.compile(
    r"--(workdir|json|on|processes|restarts|coordinator_address|num_processes|process_id"
    r"|initialization_timeout|config\.seed|config\.data\.seed)(=|$)|--(no)?config\.run\."
)
TABLE = (
    *("experiment", "changes", "runs", "top1", "top1_std", "top1_low", "top1_high", "top5"),
    *("images", "epochs", "images_per_second", "devices", "commit", "command"),
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2330; background: #fff;
  margin: 0 auto; max-width: 1240px; padding: 1rem 1.25rem 3rem }
h1 { font-size: 1.6rem; margin: .5rem 0 1rem }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
.grid { display: grid; gap: 1.5rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)) }
figure { margin: 0 }
figure svg, figure img { width: 100%; height: auto; display: block }
figcaption { color: #566; font-size: .85rem; overflow-wrap: anywhere }
.matrix { max-width: 560px }
.filters { max-width: 560px; image-rendering: pixelated }
.mistakes { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)) }
.mistakes img { border-radius: 4px }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .4rem 0 }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e4e7ee }
td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f5f6f9; padding: .7rem .9rem; border-radius: 6px; overflow-x: auto;
  font-size: .85rem }
.warning { background: #fff2e0; border-left: 4px solid #d97706; padding: .5rem .8rem }
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
        path = paths.at(workdir)
        if not (path / "config.json").exists():
            raise UserError(f"{workdir} is not a run: it has no config.json")
        self.workdir = workdir
        self.name = path.resolve().name
        self.config = json.loads((path / "config.json").read_text())
        self.metrics = metrics.read_metrics(workdir)
        result = path / "eval.json"
        self.result: Any = json.loads(result.read_text()) if result.exists() else None

    def kind(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.metrics if row["kind"] == kind]

    def series(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        rows = [row for row in self.kind(kind) if key in row]
        return [row["epoch"] for row in rows], [row[key] for row in rows]


def _class_name(classes: list[str], index: int) -> str:
    return classes[index] if index < len(classes) else f"class {index}"


def _confusion(result: dict[str, Any]) -> str:
    classes = imagenet.names(result["classes"])
    if len(classes) > MOST_CELLS:
        wrong = [(n, true, guess) for true, guess, n in result["confusion"] if true != guess]
        rows = [
            [_class_name(classes, true), _class_name(classes, guess), n]
            for n, true, guess in sorted(wrong, reverse=True)[:20]
        ]
        return _table(rows, header=["true", "guessed", "times"])
    counts = np.zeros((len(classes), len(classes) + 1), int)  # last: classes without a name
    for true, guess, n in result["confusion"]:
        counts[true, min(guess, len(classes))] += n
    columns = [*classes, "other"] if counts[:, -1].any() else classes
    figure = figures.confusion_matrix(counts[:, : len(columns)], classes, columns)
    return f'<div class="matrix">{figure}</div>'


def _mistakes(run: _Run) -> str:
    """The wrong guesses with the highest loss, drawn as the network saw them."""
    mistakes, classes = run.result["mistakes"], imagenet.names(run.result["classes"])
    if not mistakes:
        return "<p>None: every guess was right.</p>"
    config = ConfigDict(run.config)
    try:
        source = pipeline.open_split(config, run.result["split"])
    except UserError as error:
        return f"<p>The images cannot be read: {html.escape(str(error))}</p>"
    cards = []
    for m in mistakes:
        try:
            picture = figures.png(_seen(source, config, m), m["name"])
        except (OSError, LookupError, decoding.DamagedImageError) as error:
            picture = f"<p>no picture: {html.escape(str(error))}</p>"
        guesses = ", ".join(f"{_class_name(classes, c)} {p:.0%}" for c, p in m["guesses"][:3])
        truth = _class_name(classes, m["label"])
        name = m["name"].rsplit("/", 1)[-1]
        cards.append(figures.captioned(picture, f"is {truth}; guessed {guesses} ({name})"))
    return f'<div class="mistakes">{"".join(cards)}</div>'


def _seen(source: sources.Source, config: ConfigDict, mistake: dict[str, Any]) -> np.ndarray:
    """The image of a mistake as the network saw it; LookupError if it is no longer there."""
    if source.name(mistake["index"]) != mistake["name"]:
        raise LookupError("the set has changed")
    image = decoding.decode(
        source[mistake["index"]][0],
        mistake["name"],
        max_megapixels=config.data.max_megapixels,
    )
    views = cropping.Views((1,), config.input_px, config.data.resize_px, config.data.resize)
    return views.of(image)[0]


def _filters(run: _Run) -> str:
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


def _crops(run: _Run) -> str:
    """Crops of a few training images, as the network sees them."""
    try:
        crops = samples.training_crops(ConfigDict(run.config))
    except UserError as error:
        return f"<p>The images cannot be read: {html.escape(str(error))}</p>"
    picture = figures.png(figures.montage(crops), "training crops")
    caption = "First the whole image, squashed; then crops of it as in training, colours and all"
    if run.config["data"].get("mixup") or run.config["data"].get("cutmix"):
        caption += ", mixed with those of the row above"
    return figures.captioned(picture, caption)


def _details(run: _Run) -> str:
    starts = run.kind("start")
    warnings = "".join(
        f'<p class="warning">Step {row["step"]}: {html.escape(row["text"])}</p>'
        for row in run.kind("warning")
    )
    damaged = [[row["step"], row["image"]] for row in run.kind("damaged")]
    parts = [warnings]
    if run.result:
        parts += ["<h2>Confusion</h2>", _confusion(run.result)]
        parts += ["<h2>Worst mistakes</h2>", _mistakes(run)]
    parts += ["<h2>What the network sees in training</h2>", _crops(run)]
    parts += ["<h2>First-layer filters</h2>", _filters(run)]
    if damaged:
        parts += ["<h2>Damaged images, skipped</h2>", _table(damaged, header=["step", "image"])]
    commands = "\n".join(row["command"] for row in starts if row["command"])
    parts += ["<h2>Command</h2>", f"<pre>{html.escape(commands)}</pre>"]
    if starts:
        known = {k: v for k, v in starts[-1].items() if k not in ("kind", "step", "command")}
        parts += ["<h2>Environment</h2>", _table([[k, str(v)] for k, v in known.items()])]
    config = html.escape(str(ConfigDict(run.config)))
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


def _flags(run: _Run) -> list[str]:
    """Of the command that made it, what makes the result but for the seeds; none if unknown."""
    commands = [row["command"] for row in run.kind("start") if row["command"]]
    words = shlex.split(commands[-1])[3:] if commands else []  # after python launch.py train
    flags: list[str] = []
    for word in words:
        if word.startswith("-"):
            flags.append(word)
        else:  # --config FILE
            flags[-1] += f"={word}"
    kept = [flag for flag in flags if not NO_MATTER.match(flag)]
    kept = [re.sub(r"^(--config\.data\.path)=.*", r"\1=DATA", flag) for flag in kept]
    return [re.sub(r"^(--config\.init_from)=.*/(?=.)", r"\1=", flag) for flag in kept]


def _recipe(run: _Run) -> str:
    """Equal for runs that differ in their seeds alone."""
    config = {k: v for k, v in run.config.items() if k not in ("seed", "run")}
    config["data"] = {k: v for k, v in config["data"].items() if k not in ("seed", "path")}
    of_data = [run.result["classes"], run.result["count"]]
    return json.dumps([config, of_data], sort_keys=True)


def _runs(folder: str) -> list[str]:
    """The folder of a run, or of every point of a study."""
    path = paths.at(folder)
    if not (path / "study.json").exists():
        return [folder]
    points = [p for p in path.iterdir() if p.name.isdecimal() and (p / "config.json").exists()]
    if not points:
        raise UserError(f"{folder} is a study of which no point has begun")
    return [str(p) for p in sorted(points, key=lambda p: int(p.name))]


def _as_table(runs: list[_Run]) -> str:
    """CSV, a line for all runs of one recipe: accuracies are means of theirs, in percent."""
    recipes: dict[str, list[_Run]] = {}
    for run in runs:
        if run.result is None:
            raise UserError(f"{run.workdir} has no eval.json: it is not finished")
        recipes.setdefault(_recipe(run), []).append(run)
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(TABLE)
    for alike in recipes.values():
        first = alike[0]
        starts = [start for run in alike for start in run.kind("start")]
        devices, commits = (
            ", ".join(dict.fromkeys(start[k] for start in starts)) for k in ("devices", "commit")
        )
        top1, top5 = ([100 - r.result[f"{k}_error"] for r in alike] for k in ("top1", "top5"))
        rates = [rate for r in alike for rate in r.series("train", "images_per_second")[1]]
        flags = _flags(first)
        experiment = [f.split("=")[1] for f in flags if f.startswith("--config=")]
        changes = [f for f in flags if not re.match(r"--config(=|\.data\.path=)", f)]
        numbers = [
            len(alike),
            statistics.mean(top1),
            statistics.stdev(top1) if len(alike) > 1 else "",
            min(top1),
            max(top1),
            statistics.mean(top5),
            first.result["count"],
            float(first.config["optim"]["epochs"]) if starts else "",
            statistics.median(rates) if rates else "",
        ]
        lines.writerow(
            [
                pathlib.Path(experiment[-1]).stem if experiment else "",
                " ".join(f.removeprefix("--config.") for f in changes),
                *(f"{n:.2f}" if isinstance(n, float) else n for n in numbers),
                devices,
                commits,
                shlex.join(["python", "launch.py", "train", *flags, "--workdir=RUN"])
                if flags
                else "",
            ]
        )
    return out.getvalue()


def write(workdirs: list[str], output: str) -> str:
    """Writes about one run or several: an HTML file, into which nothing is loaded, or a table.

    Args:
        workdirs: of runs, or of studies for all runs of each; on the page their curves are
            overlaid, in the table those that differ in seeds alone are a line: mean, standard
            deviation (n - 1), lowest and highest top-1.
        output: the file; .csv: the table.

    Returns:
        `output`.

    Raises:
        UserError: a folder that is no run; for the table one that is not finished; a file that
            cannot be written.
    """
    runs = [_Run(run) for workdir in workdirs for run in _runs(workdir)]
    text = _as_table(runs) if output.endswith(".csv") else _page(runs)
    try:
        path = paths.at(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.write_whole(path, text)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error}") from error
    return output


def _page(runs: list[_Run]) -> str:
    title = ", ".join(run.name for run in runs)

    def heading(run: _Run) -> str:
        return f"<h1>{html.escape(run.name)}</h1>"

    curves = figures.curves([(run.name, run.series) for run in runs])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>GoogLeNet: {html.escape(title)}</title><style>{CSS}</style>"
        f"<h1>GoogLeNet: {html.escape(title)}</h1>{_summary(runs)}"
        f'<div class="grid">{curves}</div>'
        + "".join((heading(run) if len(runs) > 1 else "") + _details(run) for run in runs)
        + "</html>\n"
    )
