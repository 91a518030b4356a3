"""Gradients by depth, and their norms along a run."""

import pathlib
import re
import types
from typing import Any

import jax
import numpy as np
import optax
import pytest

from inception import train
from inception.inspection import gradients
from inception.model import TRUNK, GoogLeNet
from inception.reporting import metrics, norms, page
from inception.runtime import checkpoint
from inception.step import head_losses
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_network")]
PX = 65
MODEL = GoogLeNet(classes=3, width=0.05)


def batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    images = rng.normal(size=(4, PX, PX, 3)).astype("f")
    return images, np.arange(4, dtype=np.int32) % 3


def test_norms_of_any_sum_of_losses_follow_from_one_backward_pass_a_head(
    rng: np.random.Generator,
) -> None:
    """The other way is training's: one gradient of the whole loss."""
    variables, (images, labels) = tiny.state(MODEL).raw_variables(), batch(rng)
    found = gradients.by_module(MODEL, variables, images, labels)
    assert found.heads == ("main", "4a", "4d")
    assert set(found.modules) == set(variables["params"]) and found.modules[0] == "conv1"

    @jax.jit
    @jax.grad
    def gradient(params: Any, weights: dict[str, jax.Array]) -> jax.Array:
        logits, _ = MODEL.apply(
            {**variables, "params": params}, images, train=True,
            rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"],
        )  # fmt: skip
        losses = head_losses(logits, jax.nn.one_hot(labels, 3), label_smoothing=0.0)
        return sum(w * losses[head] for head, w in weights.items())

    for weights in ({"main": 1.0, "4a": 0.3, "4d": 0.3}, {"main": 0.0, "4a": 0.0, "4d": 1.0}):
        expected = gradient(variables["params"], {k: np.float32(w) for k, w in weights.items()})
        norms = dict(zip(found.modules, found.norms(**weights), strict=True))
        for module, g in expected.items():
            np.testing.assert_allclose(norms[module], optax.global_norm(g), rtol=1e-3, atol=1e-6)


def test_a_heads_loss_reaches_what_is_below_it_alone(rng: np.random.Generator) -> None:
    variables, (images, labels) = tiny.state(MODEL).raw_variables(), batch(rng)
    found = gradients.by_module(MODEL, variables, images, labels)
    trunk = [name for name in TRUNK if name in found.modules]
    for head in ("4a", "4d"):
        norms = dict(zip(found.modules, found.norms(**{head: 1.0}), strict=True))
        reached = {*trunk[: trunk.index(head) + 1], f"head_{head}"}
        assert {module for module, norm in norms.items() if norm > 0} == reached
    cosines = found.cosines()
    assert np.all(np.abs(cosines) <= 1 + 1e-6)
    below = found.modules.index("4a")
    np.testing.assert_allclose(np.diagonal(cosines[: below + 1], axis1=1, axis2=2), 1, rtol=1e-6)
    assert cosines[found.modules.index("classifier"), 0, 1] == 0


def test_a_network_without_heads_and_weights_without_heads(rng: np.random.Generator) -> None:
    variables, (images, labels) = tiny.state(MODEL).raw_variables(), batch(rng)
    params = {k: v for k, v in variables["params"].items() if not k.startswith("head")}
    without = {**variables, "params": params}
    found = gradients.by_module(MODEL.clone(heads=False), without, images, labels)
    assert found.heads == ("main",) and found.products.shape == (len(params), 1, 1)
    with tiny.refused(r"^--checkpoint lacks the auxiliary heads on 4a and 4d: ", "checkpoint"):
        gradients.by_module(MODEL, without, images, labels)


def lines(workdir: pathlib.Path, kind: str) -> list[dict]:
    return [row for row in metrics.read_metrics(str(workdir)) if row["kind"] == kind]


@pytest.mark.faults
def test_norms_along_a_run_are_those_of_its_arrays_and_change_nothing(
    tmp_path: pathlib.Path,
) -> None:
    """On eight devices, in two micro-batches."""
    more = ("--config.optim.accumulate=2", "--config.run.log_every_steps=1")
    with_norms = tiny.config(*more, "--config.run.norms_every_steps=5")
    result = train.run(with_norms, str(tmp_path / "a"))
    assert (
        result["params_digest"]
        == train.run(tiny.config(*more), str(tmp_path / "b"))["params_digest"]
    )
    assert not lines(tmp_path / "b", "norms")
    first, last = lines(tmp_path / "a", "norms")
    trained = lines(tmp_path / "a", "train")
    assert (first["step"], last["step"]) == (1, 6) and "gradient_norms" not in trained[0]
    params = checkpoint.Checkpoints(str(tmp_path / "a")).restore(None)["params"]
    for module, arrays in params.items():
        np.testing.assert_allclose(last[f"weights/{module}"], norm(arrays), rtol=1e-5)
        assert last[f"update/{module}"] > 0 and first[f"gradient/{module}"] > 0
    for row, metric in ((first, trained[0]), (last, trained[5])):
        every = [row[f"gradient/{module}"] for module in params]
        np.testing.assert_allclose(np.linalg.norm(every), metric["grad_norm"], rtol=1e-5)
    page.write([str(tmp_path / "a")], str(tmp_path / "a.html"))
    assert "Gradients by depth" in (tmp_path / "a.html").read_text()


def norm(arrays: Any) -> float:
    return float(np.sqrt(sum(np.square(x, dtype=float).sum() for x in jax.tree.leaves(arrays))))


def test_lines_of_norms_are_those_of_the_parameters(
    rng: np.random.Generator, tmp_path: pathlib.Path
) -> None:
    """In every third step from the first on, whatever the windows; again after a resumed start."""
    steps = metrics.Steps(start=0, total=8, per_epoch=3.0, batch_size=8)

    def params(step: int) -> dict[str, Any]:
        draw = np.random.default_rng(step).normal
        return {
            "3a": {"x": draw(size=3).astype("f")},
            "conv1": {"y": draw(size=(2, 2)).astype("f")},
        }

    def go(start: int, end: int) -> None:
        writer = metrics.Writer(str(tmp_path), start_step=start)
        callback = norms.WriteNorms(writer, steps, 3)
        for step in range(start, end + 1):
            if callback.due(step):
                callback.before_step(step, types.SimpleNamespace(params=params(step)))
            seen = {"loss": np.float32(1), "gradient_norms": np.array([step, 1], np.float32)}
            callback.on_metrics(metrics.Window(step + 1, 1.0, {step + 1: seen}, 8, 1.0, 0.0, []))
            assert seen.keys() == {"loss"}
        writer.close()

    go(0, 5)
    assert [row["step"] for row in lines(tmp_path, "norms")] == [1, 4]
    go(2, 8)
    rows = lines(tmp_path, "norms")
    assert [row["step"] for row in rows] == [1, 4, 7] and rows[1]["epoch"] == 4 / 3
    for row in rows:
        before, after = params(row["step"] - 1), params(row["step"])
        assert row["gradient/3a"] == row["step"] - 1
        for module in after:
            assert row[f"weights/{module}"] == pytest.approx(norm(after[module]), rel=1e-6)
            step = jax.tree.map(np.subtract, after[module], before[module])
            assert row[f"update/{module}"] == pytest.approx(norm(step), rel=1e-6)


def test_the_page_draws_norms_of_a_few_steps() -> None:
    names = ("head_4a", "3a", "conv1")
    rows = [
        {
            "step": s,
            **{f"{kind}/{m}": 0.0 if s == 1 else 1.0 for kind in norms.NORMS for m in names},
        }
        for s in range(1, 100, 10)
    ]
    drawn = page._norms(types.SimpleNamespace(kind=lambda _: rows))
    assert drawn.count("<svg") == 2
    labels = re.findall(r"<!-- (step \d+|conv1|3a|head_4a) -->", drawn.split("</svg>")[0])
    assert labels[:2] == ["conv1", "3a"] and "step 1" in labels and "step 91" in labels
    assert len([label for label in labels if label.startswith("step")]) == page.MOST_LINES
    assert page._norms(types.SimpleNamespace(kind=lambda _: [])) == ""
