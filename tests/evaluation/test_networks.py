"""What a folder says of its network, and what its weights are."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from inception.evaluation.networks import eval_batch_size
from inception.runtime import sharding
from tests import tiny
from tests.cli.test_cli import fails

pytestmark = pytest.mark.usefixtures("short_network")

CONFIG = ("--config.model.norm=batch", "--config.input_px=33", "--config.data.resize_px=40",
          "--config.model.heads=False")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.write_run(tmp_path_factory.mktemp("runs") / "run", tiny.config(*CONFIG))


@pytest.fixture
def changed(run: str, tmp_path: pathlib.Path):
    """A copy of the run whose config.json has other knobs in config.model."""

    def change(**knobs) -> str:
        copy = tmp_path / "changed"
        shutil.copytree(run, copy)
        config = json.loads((copy / "config.json").read_text())
        config["model"] |= knobs
        (copy / "config.json").write_text(json.dumps(config))
        return str(copy)

    return change


def test_few_sizes_of_batches_are_compiled() -> None:
    mesh = sharding.make_mesh()
    sizes = [eval_batch_size(250, rows, mesh) for rows in range(300)]
    assert sorted(set(sizes)) == [8, 16, 32, 64, 128, 256]  # 250, that 8 devices divide
    assert all(size >= min(rows, 250) for rows, size in enumerate(sizes))


def commands(workdir: str, tmp_path: pathlib.Path) -> list[list[str]]:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    return [
        ["eval", f"--workdir={workdir}"],
        ["predict", f"--checkpoint={workdir}", f"{tmp_path}/a.png"],
        ["export", f"--checkpoint={workdir}", f"--output={tmp_path}/x.safetensors"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"width": 0.1}, "params/3a/1x1/BatchNorm_0/bias has shape [3] in its weights, and [6] in"),
        ({"classes": 4}, "params/classifier/bias has shape [3] in its weights, and [4] in"),
        ({"norm": "lrn"}, "params/3a/1x1/Conv_0/bias has shape none in its weights, and [3] in"),
        ({"norm": "none", "biases": False},
         "params/3a/1x1/BatchNorm_0/bias has shape [3] in its weights, and none in"),
        ({"conv5x5_px": 3}, "5x5/Conv_0/kernel has shape [5, 5, 1, 2] in its weights, and [3, 3,"),
        ({"widht": 1.0}, "config.json: GoogLeNet.__init__() got an unexpected keyword argument"),
    ],
)  # fmt: skip
def test_weights_of_another_network_are_named_by_every_command(
    changed, tmp_path, capfd, knobs: dict, message: str
) -> None:
    workdir = changed(**knobs)
    for command in commands(workdir, tmp_path):
        line = fails(capfd, command, status=1)
        assert workdir in line and message in line
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.slow
def test_a_list_of_other_classes_is_named_by_every_command(changed, tmp_path, capfd) -> None:
    workdir = changed()
    pathlib.Path(workdir, "classes.txt").write_text("colour 0\n")
    for command in commands(workdir, tmp_path):
        line = fails(capfd, command, status=1)
        assert "changed/classes.txt names 1 classes, and the network has 3" in line


def test_a_flag_that_makes_another_network_is_named(run, tmp_path, capfd) -> None:
    _, predict, _ = commands(run, tmp_path)
    line = fails(capfd, [*predict, "--config.model.width=0.1"], status=1)
    assert "[3] in its weights, and [6] in the network of config.model" in line
