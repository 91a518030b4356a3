"""Distillation: what the loss is, and which teachers are refused."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from inception import train
from inception.evaluation import teacher
from inception.reporting import metrics
from inception.runtime import checkpoint
from inception.runtime.weights import load_network
from inception.tools import bench
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")

SMALL = ("--config.input_px=33", "--config.data.resize_px=40", "--config.model.heads=False")
UNTOUCHED = (
    "--config.model.dropout=0.", "--config.optim.weight_decay=0.", "--config.optim.epochs=2.",
)  # fmt: skip


@pytest.mark.parametrize("heads", [True, False])
def test_the_loss_is_hintons(heads: bool, rng: np.random.Generator) -> None:
    logits = {h: jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) for h in ("main", "4a")}
    taught = scipy.special.softmax(rng.normal(size=(5, 3)), -1).astype(np.float32)
    losses = {"main": jnp.asarray(1.0), "4a": jnp.asarray(2.0)}
    got = teacher.distilled(
        losses, logits, jnp.zeros(()), probabilities=lambda _: jnp.asarray(taught), temperature=4.0,
        share=0.25, heads=heads,
    )  # fmt: skip
    for head, loss in losses.items():
        p = scipy.special.log_softmax(np.asarray(logits[head], float) / 4, -1)
        soft = -(taught * p).sum(-1).mean()
        expected = 0.75 * loss + 0.25 * 16 * soft if heads or head == "main" else loss
        assert float(got[head]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(tmp_path: pathlib.Path) -> None:
    """At every size, on mixed and erased images: it sees what the teacher sees."""
    folder = tiny.write_run(tmp_path / "teacher", tiny.config(*SMALL, *UNTOUCHED))
    student = (
        f"--config.init_from={folder}", f"--config.distill.teacher={folder}",
        "--config.train.sizes=(33,48)", "--config.data.mixup=0.4", "--config.data.erasing=0.5",
    )  # fmt: skip
    train.run(tiny.config(*SMALL, *UNTOUCHED, *student), str(tmp_path / "student"))
    rows = metrics.read_metrics(str(tmp_path / "student"))
    lines = [row for row in rows if row["kind"] == "train"]
    assert rows[0]["teachers"] == checkpoint.digest([load_network(folder).variables])
    assert len(lines) == 2
    for line in lines:
        assert line["grad_norm"] < 1e-4 < line["loss"], line


def test_several_teachers_count_alike(rng: np.random.Generator) -> None:
    config = tiny.config(*SMALL)
    model = teacher.GoogLeNet(**config.model)
    networks = [tiny.variables(config, seed) for seed in (0, 1)]
    images = rng.integers(0, 256, (2, 33, 33, 3)).astype(np.float32)
    models = [(model, "symmetric"), (model, "mean")]
    got = jax.jit(
        lambda v: teacher.mean_probabilities(models, v, jnp.asarray(images), temperature=2.0)
    )(networks)
    each = [
        scipy.special.softmax(np.asarray(tiny.logits(model, v, x)) / 2, -1)
        for v, x in zip(
            networks, (images / 127.5 - 1, images - np.float32([123, 117, 104])), strict=True
        )
    ]
    np.testing.assert_allclose(got, np.mean(each, 0), rtol=2e-3, atol=1e-5)


@pytest.mark.faults
def test_bench_counts_the_teachers_time(tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "ENOUGH_S", 0.0)
    (tmp_path / "a,b").mkdir()
    one, two = (
        tiny.write_run(tmp_path / "a,b" / name, tiny.config(*SMALL)) for name in ("one", "two")
    )
    result = bench.run(tiny.config(*SMALL, f"--config.distill.teacher={one},{two}"), what="train")
    alone = bench.run(tiny.config(*SMALL), what="train")
    assert result["images_per_second"] > 0 and result["memory_bytes"] > alone["memory_bytes"]


@pytest.mark.parametrize(
    ("theirs", "line"),
    [
        ("--config.model.classes=4", "has 4 classes and this run 3: a teacher needs the same"),
        ("--config.input_px=40", "was trained with config.input_px=40 and this run has 33: give"),
    ],
)
def test_a_teacher_of_another_task_is_refused(
    theirs: str, line: str, tmp_path: pathlib.Path
) -> None:
    folder = tiny.write_run(tmp_path / "teacher", tiny.config(*SMALL, theirs))
    config = tiny.config(*SMALL, f"--config.distill.teacher={folder}")
    with tiny.refused(line.replace("config.", r"(--)?config\.")):
        train.run(config, str(tmp_path / "run"))
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_a_teacher_of_other_names_is_refused(tmp_path: pathlib.Path) -> None:
    folder = tiny.write_run(tmp_path / "teacher", tiny.config(*SMALL))
    classes = tmp_path / "teacher" / "classes.txt"
    classes.write_text("".join(f"class {i}\n" for i in range(3)))  # converted weights' numbers
    loaded, _ = teacher.load(
        tiny.config(*SMALL, f"--config.distill.teacher={folder}"), ("a", "b", "c")
    )
    assert len(loaded) == 1
    classes.write_text("colour 0\nred\ncolour 2\n")
    config = tiny.config(*SMALL, f"--config.distill.teacher={folder}")
    with tiny.refused("calls class 1 red and the training set colour 1"):
        train.run(config, str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())
