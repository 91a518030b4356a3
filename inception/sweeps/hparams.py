"""A study in TensorBoard's HParams tab."""

import hashlib
import struct
import time
from collections.abc import Sequence
from typing import Any

from etils import epath
from tensorboardX.proto import api_pb2, event_pb2, plugin_hparams_pb2, summary_pb2
from tensorboardX.record_writer import masked_crc32c

from inception import UserError
from inception.data import paths
from inception.sweeps import importance

METRICS = ("best_top1", "top1_error", "top5_error")
# TensorBoard keeps the first end that it reads: only what stays is told.
ENDS = {"finished": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
TYPES = {
    str: api_pb2.DATA_TYPE_STRING,
    bool: api_pb2.DATA_TYPE_BOOL,
    float: api_pb2.DATA_TYPE_FLOAT64,
}
FIELDS = {str: "string_value", bool: "bool_value", float: "number_value"}


def _told(tag: str, **content: Any) -> summary_pb2.Summary.Value:
    data = plugin_hparams_pb2.HParamsPluginData(version=0, **content)
    plugin = summary_pb2.SummaryMetadata.PluginData(
        plugin_name="hparams", content=data.SerializeToString()
    )
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
    return summary_pb2.Summary.Value(tag=f"_hparams_/{tag}", metadata=metadata)


def _write_events(folder: epath.Path, values: list[summary_pb2.Summary.Value], step: int) -> None:
    """Makes one event file all that a folder holds; leaves it alone if it says the same already."""
    summary = summary_pb2.Summary(value=values)
    digest = hashlib.sha256(summary.SerializeToString(deterministic=True) + b"%d" % step)
    last = f".{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    old = [path for path in folder.iterdir() if "tfevents" in path.name]
    if [path.name.endswith(last) for path in old] == [True]:
        return
    now = time.time()
    data = b""
    for event in (
        event_pb2.Event(wall_time=now, file_version="brain.Event:2"),
        event_pb2.Event(wall_time=now, step=step, summary=summary),
    ):
        record = event.SerializeToString()
        length = struct.pack("<Q", len(record))
        data += length + struct.pack("<I", masked_crc32c(length))
        data += record + struct.pack("<I", masked_crc32c(record))
    unfinished = folder / "unfinished"
    unfinished.write_bytes(data)
    # TensorBoard goes on with the file whose name is the last.
    unfinished.replace(folder / f"events.out.tfevents.{time.time_ns()}{last}")
    for path in old:
        path.unlink(missing_ok=True)


def write_hparams(folder: str, rows: Sequence[dict[str, Any]]) -> str:
    """Writes FOLDER/hparams, so that `tensorboard --logdir=FOLDER` has the table of a study.

    Each point is a session of its own there, apart from the workdirs: TensorBoard follows one event
    file a folder, which in a workdir is the run's. What was written before is replaced.

    Args:
        folder: the study's.
        rows: its points, as `page.write` takes them.

    Returns:
        The folder written.

    Raises:
        UserError: it cannot be written.
    """
    knobs = importance.differing(rows)
    infos, columns = [], {}
    for knob in knobs:
        kinds = {type(value) for value in knob.values if value is not None}
        if kinds <= {int, float} and None not in map(importance.number, knob.choices):
            kind: type = float
        else:
            kind = bool if kinds == {bool} else str
        infos.append(api_pb2.HParamInfo(name=knob.name, type=TYPES[kind]))
        columns[knob.name] = [None if value is None else kind(value) for value in knob.values]
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in METRICS]
    experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)
    try:
        output = paths.at(folder) / "hparams"
        _write_events(output, [_told("experiment", experiment=experiment)], 0)
        for i, row in enumerate(rows):
            start = plugin_hparams_pb2.SessionStartInfo()
            for name, values in columns.items():
                if values[i] is not None:
                    setattr(start.hparams[name], FIELDS[type(values[i])], values[i])
            told = [_told("session_start_info", session_start_info=start)]
            if row["state"] in ENDS:
                end = plugin_hparams_pb2.SessionEndInfo(status=ENDS[row["state"]])
                told.append(_told("session_end_info", session_end_info=end))
            known = {**(row.get("result") or {}), "best_top1": row["best_top1"]}
            for tag in METRICS:
                value = importance.number(known.get(tag))
                if value is not None:
                    told.append(summary_pb2.Summary.Value(tag=tag, simple_value=value))
            _write_events(output / str(row["number"]), told, round(row["epoch"]))
        numbers = {str(row["number"]) for row in rows}
        for path in output.iterdir():
            if path.name.isdigit() and path.name not in numbers:
                path.rmtree()
    except OSError as error:
        raise UserError(f"{folder}/hparams cannot be written: {error}") from error
    return str(output)
