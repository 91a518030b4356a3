"""Averages of weights: of runs, and of the last checkpoints of a run."""

import json
import pathlib

import jax
import numpy as np
import pytest

import launch
from inception import pixels
from inception.config import run_config
from inception.data import pipeline
from inception.evaluation.average import without_heads
from inception.model import GoogLeNet
from inception.runtime import checkpoint
from inception.runtime.weights import load_network
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")

SMALL = ("--config.data.resize_px=40", "--config.input_px=33", "--config.model.heads=False")
BATCH = ("--config.model.norm=batch", "--config.run.eval_batch_size=32", "--config.model.dropout=0.",
         "--config.train.sizes=(40,0)", "--config.data.repeats=2")  # fmt: skip


def write_two(folder: pathlib.Path, *overrides: str, other: tuple[str, ...] = ()) -> list[str]:
    first = tiny.config(*SMALL, *overrides)
    second = tiny.config(*SMALL, *overrides, *other)
    return [
        tiny.write_run(folder / "one", first),
        tiny.write_run(folder / "two", second, seed=1),
    ]


def average(*args: str) -> int:
    return launch.main(["average", *args])


@pytest.mark.slow
def test_the_average_of_two_runs(tmp_path: pathlib.Path, capsys) -> None:
    """One has auxiliary heads, the other has none; both began with the same weights."""
    start = tiny.write_run(tmp_path / "start", tiny.config(*SMALL))
    runs = write_two(
        tmp_path, f"--config.init_from={start}", "--config.input_px=65", "--config.data.resize_px=70",
        "--config.model.heads=True", other=("--config.model.heads=False",),
    )  # fmt: skip
    output = tmp_path / "average"
    assert average(",".join(runs), f"--output={output}", "--json") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert "WARNING" not in captured.err
    assert [row["name"] for row in result["table"]] == [*runs, "average"]
    assert result["top1_error"] == result["table"][-1]["top1_error"] and result["count"] == 32
    one, two, both = (load_network(folder).variables for folder in (*runs, str(output)))
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose((a + b) / 2, c, rtol=1e-6, atol=1e-7),
        without_heads(one)["params"], two["params"], both["params"],
    )  # fmt: skip
    assert launch.main(["eval", f"--workdir={output}", "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["top1_error"] == result["top1_error"]


@pytest.mark.slow
def test_statistics_are_those_of_the_training_images(tmp_path: pathlib.Path) -> None:
    """With the statistics of the only batch, evaluation equals training without dropout.

    At the size of evaluation, each image once, of frozen modules too.
    """
    frozen = "--config.model.frozen_through=conv2"
    runs, output = write_two(tmp_path, *BATCH, frozen), tmp_path / "average"
    assert average(",".join(runs), f"--output={output}") == 0
    plain = ["--config.optim.batch_size=32", "--config.train.sizes=(0,)", "--config.data.repeats=1",
             "--config.model.frozen_through="]  # fmt: skip
    config, trained = run_config(str(output), plain), load_network(str(output))
    source = pipeline.open_split(config, "train")
    batch, _ = next(pipeline.training_batches(config, source, start_step=0, total_steps=1))
    images = pixels.normalize(batch["image"], method=config.data.normalization)
    model = GoogLeNet(**config.model)
    apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
    training, _ = apply(trained.variables, images, train=True, mutable=("batch_stats",))
    evaluation = apply(trained.variables, images, train=False)
    np.testing.assert_allclose(training["main"], evaluation["main"], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_last_checkpoints_of_a_run(tmp_path: pathlib.Path, capsys) -> None:
    config = tiny.config(*SMALL, "--config.run.keep_checkpoints=3")
    run, output = tiny.write_run(tmp_path / "run", config), tmp_path / "average"
    saved = checkpoint.Checkpoints(run, keep=3)
    for step in (1, 2):
        variables = tiny.variables(config, step)
        saved.save(step, {**variables, "average": {}, "step": np.full((), step, np.int32)})
    saved.close()
    assert average(run, f"--output={output}", "--last=2", "--json") == 0
    table = json.loads(capsys.readouterr().out.splitlines()[-1])["table"]
    assert [row["name"] for row in table] == ["step 1", "step 2", "average"]
    one, two, both = (
        load_network(folder, step=step).variables["params"]["classifier"]["kernel"]
        for folder, step in ((run, 1), (run, 2), (str(output), 0))
    )
    np.testing.assert_allclose((one + two) / 2, both, rtol=1e-6, atol=1e-7)
    assert average(run, f"--output={tmp_path / 'more'}", "--last=9") == 1
    line = capsys.readouterr().err
    assert "the last 3 checkpoints are kept" in line and "give at most --last=3" in line


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (("--config.model.width=0.06",), "config.model.width is 0.05 in"),
        (("--config.data.normalization=mean",), "config.data.normalization is symmetric in"),
        (("--config.input_px=35",), "an average sees the same images"),
        (("--config.model.classes=4",), "config.model.classes is 3 in"),
    ],
)
def test_networks_without_an_average_are_refused(
    other: tuple[str, ...], line: str, tmp_path: pathlib.Path, capsys
) -> None:
    runs, output = write_two(tmp_path, other=other), tmp_path / "average"
    assert average(",".join(runs), f"--output={output}") == 1
    assert line in capsys.readouterr().err and not output.exists()


def test_other_command_lines_that_mean_nothing(tmp_path: pathlib.Path, capsys) -> None:
    runs, output = write_two(tmp_path, other=("--config.seed=1",)), tmp_path / "average"
    assert average(runs[0], f"--output={output}") == 1
    assert "one folder alone: name others too, or give --last=2" in capsys.readouterr().err
    assert average(",".join(runs), f"--output={output}", "--last=2") == 1
    assert "--last=2 is for one folder" in capsys.readouterr().err
    assert average(",".join(runs), f"--output={tmp_path}") == 1
    captured = capsys.readouterr().err
    assert "WARNING: not all began with the same trained" in captured and "is not empty" in captured
