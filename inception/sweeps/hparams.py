"""A study in TensorBoard's HParams tab."""

import hashlib
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from tensorboardX import summary
from tensorboardX.proto import api_pb2, plugin_hparams_pb2, summary_pb2
from tensorboardX.writer import FileWriter

from inception.data import paths
from inception.reporting.markup import number
from inception.sweeps.study import differing

METRICS = ("best_top1", "top1_error", "top5_error")


def write_hparams(folder: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes FOLDER/hparams, so that `tensorboard --logdir=FOLDER` shows the study's table.

    Each point gets a folder of its own there, outside its workdir: TensorBoard follows one event
    file per folder, which in a workdir is the run's. Earlier content is replaced.

    Args:
        folder: the study's.
        rows: its points, as `page.write` takes them.

    Raises:
        UserError: the folder cannot be written.
    """
    kinds = {
        name: float if all(v is None or number(v) is not None for v in values) else str
        for name, values in differing(rows).items()
    }
    examples = {name: kind() for name, kind in kinds.items()}
    experiment, _, _ = summary.hparams(examples, dict.fromkeys(METRICS))
    output = pathlib.Path(folder) / "hparams"
    with paths.explained(f"{folder}/hparams cannot be written"):
        output.mkdir(parents=True, exist_ok=True)
        _write_events(output, experiment, 0)
        for row in rows:
            knobs = {n: kinds[n](v) for n, v in row["knobs"].items() if n in kinds}
            _write_events(output / str(row["number"]), _session(row, knobs), round(row["epoch"]))
        numbers = {str(row["number"]) for row in rows}
        for path in output.iterdir():
            if path.name.isdigit() and path.name not in numbers:
                shutil.rmtree(path)


def _session(row: dict[str, Any], knobs: dict[str, Any]) -> summary_pb2.Summary:
    """A point as a session: its knobs, its results, and its end if known."""
    _, session, end = summary.hparams(knobs, {})
    # TensorBoard keeps the first end that it reads: write only a final one.
    if row["state"] == "failed":
        plugin = end.value[0].metadata.plugin_data
        data = plugin_hparams_pb2.HParamsPluginData.FromString(plugin.content)
        data.session_end_info.status = api_pb2.STATUS_FAILURE
        plugin.content = data.SerializeToString()
    if row["state"] in ("finished", "failed"):
        session.MergeFrom(end)
    results = {**(row["result"] or {}), "best_top1": row["best_top1"]}
    for tag in METRICS:
        if (value := number(results.get(tag))) is not None:
            session.value.add(tag=tag, simple_value=value)
    return session


def _write_events(folder: pathlib.Path, content: summary_pb2.Summary, step: int) -> None:
    """Replaces a folder's content by one event file, unless that file is there already."""
    digest = hashlib.sha256(content.SerializeToString(deterministic=True) + b"%d" % step)
    suffix = f".{digest.hexdigest()[:16]}"
    old = list(folder.glob("*tfevents*"))
    if [path.name.endswith(suffix) for path in old] == [True]:
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        writer = FileWriter(unfinished, filename_suffix=suffix)
        writer.add_summary(content, step)
        writer.close()
        folder.mkdir(exist_ok=True)
        for path in pathlib.Path(unfinished).iterdir():
            path.replace(folder / path.name)
    for path in old:
        path.unlink(missing_ok=True)
