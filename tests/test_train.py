"""The real loop on a tiny network: learning, resuming, stopping, and what it refuses."""

import dataclasses
import json
import pathlib
import re
import shutil
import signal
import struct
import sys
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from inception import Interrupted, UserError, train
from inception.data import pipeline
from inception.evaluation import evaluate
from inception.reporting import callbacks, metrics
from inception.runtime import checkpoint, processes, sharding
from inception.runtime.workdir import write_config
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")

BUILT: dict[tuple, train.Training] = {}


@pytest.fixture(autouse=True, scope="module")
def _built_once() -> Iterator[None]:
    """Runs of one network and recipe share the compiled step, whose tracing takes most of a tiny run."""
    original = train.build

    def build(config, mesh, *, source, **steps):
        own = {k: v for k, v in config.to_dict().items() if k != "run"}
        key = (json.dumps(own, sort_keys=True), *steps.values())
        if key not in BUILT:
            BUILT[key] = original(config, mesh, source=source, **steps)
        return BUILT[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build", build)
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, pathlib.Path]:
    workdir = tmp_path_factory.mktemp("unbroken")
    return train.run(tiny.config(), str(workdir), command="the command"), workdir


def test_result(unbroken) -> None:
    result, workdir = unbroken
    assert result["steps"] == 6 and result["count"] == 32 and result["damaged"] == 0
    assert 0 <= result["top5_error"] <= result["top1_error"] <= 100
    assert result["images_per_second"] > 0 and len(result["params_digest"]) == 64
    names = {p.name for p in workdir.iterdir()}
    assert {"config.json", "checkpoints", "metrics.jsonl", "eval.json", "report.html"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)


def test_metrics_file(unbroken) -> None:
    rows = metrics.read_metrics(str(unbroken[1]))
    assert [r["step"] for r in rows if r["kind"] == "eval"] == [2, 4, 6]
    trained = [r for r in rows if r["kind"] == "train"]
    assert [r["step"] for r in trained] == [2, 4, 6]
    wanted = {
        "loss_main",
        "loss_4a",
        "loss_4d",
        "top1",
        "top1_4a",
        "learning_rate",
        "images_per_second",
    }
    assert all(wanted <= r.keys() for r in trained)


def test_tensorboard_events_are_readable(unbroken) -> None:
    path = next(unbroken[1].glob("events.out.tfevents*"))
    data, tags = path.read_bytes(), set()
    while data:  # TFRecord: length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        tags |= {value.tag for value in event.summary.value}
        data = data[16 + length :]
    assert {"train/loss_4a", "train/learning_rate", "eval/top1"} <= tags
    assert "tensorflow" not in sys.modules


def test_evaluating_the_run_again_gives_its_result(unbroken) -> None:
    result, workdir = unbroken
    again = evaluate.run([tiny.config()], [str(workdir)])
    assert again.items() >= {key: result[key] for key in ("top1_error", "count", "crops")}.items()
    assert [row["models"] for row in again["table"]] == [1]


@pytest.mark.slow
def test_the_same_command_on_a_finished_run_repeats_its_result(unbroken) -> None:
    result, workdir = unbroken
    before = (workdir / "metrics.jsonl").read_text()
    again = train.run(tiny.config(), str(workdir))
    keys = result.keys() - {"images_per_second", "waiting_for_data"}
    assert {k: again[k] for k in keys} == {k: result[k] for k in keys}
    after = (workdir / "metrics.jsonl").read_text().splitlines()
    assert after[: len(before.splitlines())] == before.splitlines()
    assert [json.loads(line)["kind"] for line in after[len(before.splitlines()) :]] == ["start"]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, batch: int, number: int = signal.SIGINT) -> None:
    """Sends the signal when that batch of this start has been read."""
    original = pipeline.training_batches

    def interrupting(*args, **kwargs):
        for i, item in enumerate(original(*args, **kwargs)):
            if i == batch:
                signal.raise_signal(number)
            yield item

    monkeypatch.setattr(pipeline, "training_batches", interrupting)


@pytest.mark.slow
def test_a_resumed_run_ends_bit_for_bit_as_the_unbroken_one(
    unbroken, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch, number in ((0, signal.SIGINT), (1, signal.SIGTERM)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, batch, number)
            with pytest.raises(Interrupted) as stopped:
                train.run(tiny.config(), str(tmp_path))
        name = signal.Signals(number).name
        step = re.fullmatch(rf"stopped by {name}: step (\d) of 6 is saved; .*", str(stopped.value))
        assert step and checkpoint.Checkpoints(str(tmp_path)).steps()[-1] == int(step[1])
    result = train.run(tiny.config(), str(tmp_path))
    assert result["params_digest"] == unbroken[0]["params_digest"]
    assert result["top1_error"] == unbroken[0]["top1_error"]
    rows = [metrics.read_metrics(str(w)) for w in (tmp_path, unbroken[1])]
    evaluations = [
        [(r["step"], r["top1"], r["loss"]) for r in some if r["kind"] == "eval"] for some in rows
    ]
    assert evaluations[0] == evaluations[1]
    whole_states = [
        checkpoint.Checkpoints(str(w), read_only=True).restore(None)
        for w in (tmp_path, unbroken[1])
    ]
    assert checkpoint.digest(whole_states[0]) == checkpoint.digest(whole_states[1])


def test_run_knobs_may_change_and_others_may_not(unbroken, tmp_path: pathlib.Path) -> None:
    plain = json.loads(tiny.config().to_json())
    write_config(plain, str(tmp_path))
    write_config(json.loads(tiny.config("--config.run.workers=3").to_json()), str(tmp_path))
    other = tiny.config("--config.optim.learning_rate=0.5")
    with tiny.refused(r"config\.optim\.learning_rate is 0.02 there and 0.5 here"):
        train.run(other, str(unbroken[1]))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        write_config(plain, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", '{"architectures": ["GoogLeNet"]}', "it is no config of this project"),
        ("config.json", "[]", "it is no config of this project"),
        ("classes.txt", "bird\n", "has classes.txt, no config: choose another"),
        ("report.html", "<html>", "has report.html, no config"),
        ("lock", "a poem", "lock was not written by a run"),
    ],
)
def test_a_folder_with_files_of_others_is_no_workdir(
    tmp_path: pathlib.Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with tiny.refused(message):
        train.run(tiny.config(), str(tmp_path))
    assert (tmp_path / name).read_text() == text


def test_a_workdir_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with tiny.refused(r"--workdir=.*cannot be written"):
        train.run(tiny.config(), str(tmp_path / "file" / "run"))


def test_a_batch_that_the_devices_do_not_divide(tmp_path: pathlib.Path) -> None:
    with tiny.refused(r"config\.optim\.batch_size=12 .* 8 devices .*: take 8 or 16"):
        train.run(tiny.config("--config.optim.batch_size=12"), str(tmp_path))


def test_a_run_without_a_step(tmp_path: pathlib.Path) -> None:
    with tiny.refused(r"config\.optim\.epochs=0.1 makes no step"):
        train.run(
            tiny.config("--config.optim.epochs=0.1", "--config.optim.warmup_epochs=0."),
            str(tmp_path),
        )


def test_a_warm_up_in_steps() -> None:
    config = tiny.config("--config.optim.warmup_steps=3", "--config.optim.warmup_epochs=0")
    assert train.warmup_steps(config, 100.0) == 3
    assert train.warmup_steps(tiny.config("--config.optim.warmup_epochs=0.5"), 100.0) == 50
    long = tiny.config("--config.optim.warmup_steps=6", "--config.optim.warmup_epochs=0")
    with tiny.refused(r"config\.optim\.warmup_steps lasts 6 of 6 steps: it must be shorter"):
        train.count_steps(long, 32)


def test_a_warm_up_as_long_as_the_run() -> None:
    config = tiny.config("--config.optim.epochs=1.0", "--config.optim.warmup_epochs=0.9")
    with tiny.refused(r"config\.optim\.warmup_epochs lasts 2 of 2 steps: it must be shorter"):
        train.count_steps(config, 32)


@pytest.mark.parametrize(("images", "counts"), [(100, (60, 180)), (6000, (187.5, 562))])
def test_an_epoch_passes_over_a_small_set_several_times(images: int, counts: tuple) -> None:
    config = tiny.config("--config.optim.batch_size=32", "--config.optim.min_epoch_steps=60")
    assert train.count_steps(config, images) == counts


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_good(
    tmp_path: pathlib.Path,
) -> None:
    """The warm-up starts at rate 0, so step 1 is good; the step after it is far off."""
    config = tiny.config("--config.optim.learning_rate=1e30",
                         "--config.run.checkpoint_every_epochs=0.5", "--config.run.log_every_steps=1",
                         "--config.optim.warmup_epochs=1.")  # fmt: skip
    with tiny.refused(r"(became|not finite).*config\.optim\.learning_rate"):
        train.run(config, str(tmp_path))
    assert checkpoint.Checkpoints(str(tmp_path)).steps() == [1]
    assert np.isfinite(evaluate.run([config], [str(tmp_path)])["top1_error"])


@pytest.mark.slow
def test_the_choices_that_the_demo_does_not_make_train_too(tmp_path: pathlib.Path) -> None:
    config = tiny.config("--config.model.module=naive", "--config.model.norm=none",
                         "--config.model.initializer=xavier", "--config.model.dtype=bfloat16",
                         "--config.data.sampler=caffe", "--config.data.resize=squash",
                         "--config.data.resize_px=70", "--config.data.normalization=unit",
                         "--config.optim.schedule=exponential", "--config.optim.momentum_style=caffe",
                         "--config.optim.bias_lr_mult=2.", "--config.optim.bias_decay_mult=0.",
                         "--config.optim.polyak_decay=0.", "--config.loss.label_smoothing=.1",
                         "--config.optim.accumulate=2", "--config.model.remat=True", "--config.data.balance=.5", "--config.loss.class_balance=.5",
                         "--config.optim.learning_rate=.001")  # fmt: skip
    result = train.run(config, str(tmp_path))
    assert result["steps"] == 6 and result["count"] == 32
    rows = [r for r in metrics.read_metrics(str(tmp_path)) if r["kind"] == "train"]
    assert rows[-1].keys() >= {"loss_main", "loss_4a", "loss_4d"}


@pytest.mark.faults
def test_damaged_images_above_the_share_stop_the_run(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    overrides = ["--config.data.source=folder", f"--config.data.path={photos}",
                 "--config.data.eval_split=val", "--config.optim.batch_size=8"]  # fmt: skip
    val = {pipeline.open_split(tiny.config(*overrides), "val").name(i) for i in range(6)}
    spoilt = [p for p in sorted(photos.rglob("*.*")) if str(p) not in val][:3]
    for path in spoilt:
        path.write_bytes(path.read_bytes()[:60])
    with tiny.refused(r"damaged images are more than config\.data\.max_damaged_share"):
        train.run(
            tiny.config(*overrides, "--config.data.max_damaged_share=0.1"), str(tmp_path / "a")
        )
    allowed = tiny.config(*overrides, "--config.data.max_damaged_share=0.2")
    result = train.run(allowed, str(tmp_path / "b"))
    assert result["damaged"] == 3
    rows = [r for r in metrics.read_metrics(str(tmp_path / "b")) if r["kind"] == "damaged"]
    assert {row["image"].split(":")[0] for row in rows} == set(map(str, spoilt))


@pytest.fixture
def log(tmp_path: pathlib.Path):
    """Callbacks -> what calls them, for a run of 40 steps; its metrics.jsonl is in tmp_path."""
    steps = metrics.Steps(start=0, total=40, per_epoch=4.5, batch_size=8)
    writer = metrics.Writer(str(tmp_path), start_step=0)

    def call(*made) -> metrics.Callbacks:
        called = [make(writer, steps) for make in made]
        return metrics.Callbacks(called, writer, steps, log_every=3)

    return call


def test_what_another_process_waited_for_is_told(log, tmp_path: pathlib.Path, monkeypatch) -> None:
    calls = log(lambda w, _: callbacks.WriteMetrics(w, lambda _: 0.1))
    (written,) = calls._callbacks
    other = {"damaged": [], "warnings": ["process 1: no batch for 61 s"], "starved": 1e9}
    monkeypatch.setattr(processes, "gather_text", lambda own: [own, json.dumps(other)])
    calls.after_step({"loss": jnp.float32(1), "top1": jnp.float32(0)}, [], starved=0.0)
    calls.fetch()
    rows = {row["kind"]: row for row in metrics.read_metrics(str(tmp_path))}
    assert rows["warning"]["text"] == "process 1: no batch for 61 s"
    assert rows["train"]["waiting_for_data"] == written.result()["waiting_for_data"] == 1


def test_images_count_where_their_seconds_do(log, tmp_path: pathlib.Path) -> None:
    calls = log(lambda w, _: callbacks.WriteMetrics(w, lambda _: 0.1))
    (written,) = calls._callbacks
    counts = []
    for _ in range(6):  # fetched after 1, 3 and 6; the first compiles: its seconds do not count
        calls.after_step({"loss": jnp.float32(1)}, [], starved=0.0)
        if not counts:
            calls.fetch()
        counts.append(written.images)
    assert counts == [0, 0, 16, 16, 16, 40]
    rows = metrics.read_metrics(str(tmp_path))
    assert rows[0]["images_per_second"] == 0 < rows[1]["images_per_second"]


def test_a_stall_is_a_warning_ever_more_rarely(log, tmp_path: pathlib.Path, capfd) -> None:
    calls = log(lambda w, _: callbacks.Stalls(w))
    for seconds in (59, 61, 100, 200, 245, 300):
        calls.on_wait(seconds)
    texts = [row["text"][:21] for row in metrics.read_metrics(str(tmp_path))]
    assert texts == ["no batch for 61 s at ", "no batch for 245 s at"]
    assert "WARNING: no batch for 61 s at step 0: the disk" in capfd.readouterr().err


def test_a_dead_head_raises_a_loud_warning_once(log, tmp_path: pathlib.Path, capfd) -> None:
    calls = log(lambda w, steps: callbacks.DeadHeads(w, steps, 10, 2.0))
    names = ("loss", "loss_main", "loss_4a", "top1", "top1_4a")
    for step in range(40):
        alive = min(1.0, 0.1 + step / 20)
        values = dict(zip(names, (2.0, 2.3, 1.0, 0.1 + 0.02 * (step % 2), alive), strict=True))
        calls.after_step({k: jnp.float32(v) for k, v in values.items()}, [], starved=0.0)
    calls.fetch()
    warnings = [r for r in metrics.read_metrics(str(tmp_path)) if r["kind"] == "warning"]
    assert len(warnings) == 1
    assert "head main is still at chance after 2 epochs" in warnings[0]["text"]
    for cure in (
        "config.model.initializer=he",
        "config.optim.learning_rate",
        "config.model.norm=batch",
    ):
        assert cure in warnings[0]["text"]
    assert "*** WARNING: head main" in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_does_not_resume_on_a_set_that_changed(unbroken, tmp_path: pathlib.Path) -> None:
    shutil.copytree(unbroken[1], tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"images": 32', '"images": 31'))
    with pytest.raises(UserError, match="has 32 images and had 31"):
        train.run(tiny.config(), str(tmp_path / "run"))


def test_a_run_does_not_resume_with_other_names_of_classes(tmp_path: pathlib.Path) -> None:
    source = pipeline.open_split(tiny.config(), "train")
    steps = metrics.Steps(3, 6, 2.0, 16)
    metrics.open_log(str(tmp_path), steps, source, command="").close()
    before = (tmp_path / "classes.txt").read_bytes()
    renamed = dataclasses.replace(source, classes=("colour 0", "zebra", "colour 2"))
    with tiny.refused("config.data: the training set has class zebra where colour 1 was"):
        metrics.open_log(str(tmp_path), steps, renamed, command="")
    fewer = dataclasses.replace(source, classes=source.classes, count=30)
    with tiny.refused("has 30 images and had 32"):
        metrics.open_log(str(tmp_path), steps, fewer, command="")
    swapped = dataclasses.replace(source, name_of=lambda i: f"photo {i % 31}")
    with tiny.refused("has other file names or labels than when this run began"):
        metrics.open_log(str(tmp_path), steps, swapped, command="")
    moved = dataclasses.replace(source, name_of=lambda i: f"/elsewhere/{source.name(i)}")
    metrics.open_log(str(tmp_path), steps, moved, command="").close()
    with tiny.refused("config.distill.teacher has other weights than when this run began"):
        metrics.open_log(str(tmp_path), steps, source, command="", teachers="0")
    assert (tmp_path / "classes.txt").read_bytes() == before


def test_validation_may_lack_a_class_and_have_no_other(
    photos: pathlib.Path, tmp_path: pathlib.Path, capfd
) -> None:
    root = tmp_path / "set"
    for split in ("train", "val"):
        shutil.copytree(photos, root / split)
    config = tiny.config("--config.data.source=folder", f"--config.data.path={root}",
                         "--config.data.eval_split=val")  # fmt: skip
    mesh = sharding.make_mesh()
    for spoil in (lambda p: [f.unlink() for f in p.iterdir()], lambda p: p.rmdir()):
        spoil(root / "val" / "bee")
        source, evaluator = train.open_splits(config, mesh)
        assert capfd.readouterr().err.count("val has no picture of bee") == 1
        assert evaluator.source.classes == source.classes == ("ant", "bee", "cat")
        assert np.bincount(evaluator.source.labels).tolist() == [10, 0, 10]
    shutil.copytree(photos / "bee", root / "val" / "dog")
    with pytest.raises(UserError, match="dog is none of the 3 classes"):
        train.run(config, str(tmp_path / "run"))
    shutil.rmtree(root / "val" / "dog")
    [f.unlink() for f in (root / "train" / "bee").iterdir()]
    with pytest.raises(UserError, match="bee has no image"):
        train.run(config, str(tmp_path / "run"))


@pytest.mark.slow
def test_a_damaged_image_of_evaluation_costs_no_training(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for split in ("train", "val"):
        shutil.copytree(photos, tmp_path / "set" / split)
    (tmp_path / "set" / "val" / "ant" / "0.jpeg").write_bytes(b"")
    config = tiny.config("--config.data.source=folder", f"--config.data.path={tmp_path / 'set'}",
                         "--config.data.eval_split=val")  # fmt: skip
    with pytest.raises(UserError, match=r"ant/0\.jpeg: an empty file\. Evaluation skips no image"):
        train.run(config, str(tmp_path / "run"))
    assert checkpoint.Checkpoints(str(tmp_path / "run")).steps() == [2]
