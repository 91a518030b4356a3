"""Activations of layers, as arrays and as a file."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import launch
from inception import Predictor, UserError, pixels
from inception.data import cropping
from inception.evaluation import features
from inception.model import GoogLeNet
from tests import tiny

pytestmark = pytest.mark.usefixtures("short_network")

activations = jax.jit(features.activations, static_argnums=0)
PX = 33
CONFIG = (f"--config.input_px={PX}", "--config.data.resize_px=40", "--config.model.heads=False")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.write_run(tmp_path_factory.mktemp("runs") / "0", tiny.config(*CONFIG))


@pytest.fixture
def picture(rng: np.random.Generator) -> Image.Image:
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3)).astype(np.uint8))
    return coarse.resize((60, 48), Image.Resampling.BICUBIC)


def views(picture: Image.Image, crops: int) -> jax.Array:
    seen = jnp.asarray(cropping.Views((crops,), PX, 40, "short").of(picture))
    return pixels.normalize(seen, method="symmetric")


@pytest.mark.slow
@pytest.mark.parametrize("crops", [1, 10])
def test_the_classifier_on_pool5_is_the_network(run, picture: Image.Image, crops: int) -> None:
    """Also of averages over crops: the classifier is linear."""
    got = Predictor(run).features([picture, picture], crops=crops)
    config = tiny.config(*CONFIG)
    variables = tiny.variables(config, 0)
    width = variables["params"]["classifier"]["kernel"].shape[0]
    assert got.shape == (2, width) and got.dtype == np.float32
    logits = tiny.logits(GoogLeNet(**config.model), variables, views(picture, crops))
    classifier = variables["params"]["classifier"]
    for row in got:
        np.testing.assert_allclose(
            row @ classifier["kernel"] + classifier["bias"], logits.mean(0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_layers_are_as_in_the_paper(run, picture: Image.Image) -> None:
    """After ReLU, those too after which the network pools first."""
    config = tiny.config(*CONFIG)
    variables, x = tiny.variables(config, 0), views(picture, 1)
    found = activations(GoogLeNet(**config.model), variables, x)
    conv = variables["params"]["conv1"]["Conv_0"]
    plain = jax.lax.conv_general_dilated(
        x, conv["kernel"], (2, 2), [(3, 3)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    first = np.maximum(plain + conv["bias"][None, None, None], 0)
    np.testing.assert_allclose(found["conv1"], first, rtol=1e-4, atol=1e-5)
    assert (plain < 0).any()
    for row in ("3b", "4a", "5b"):
        parts = [found[f"{row}/{branch}"] for branch in ("1x1", "3x3", "5x5", "pool_proj")]
        np.testing.assert_array_equal(found[row], jnp.concatenate(parts, -1))
        assert min(part.min() for part in parts) == 0
    assert found["conv2_reduce"].shape[1:3] == (9, 9) and "4a/5x5_reduce" in found
    np.testing.assert_allclose(found["5b"].mean((1, 2)), found["pool5"], rtol=1e-5)
    logits = tiny.logits(GoogLeNet(**config.model), variables, x)
    np.testing.assert_allclose(found["classifier"], logits, rtol=1e-4, atol=1e-5)
    grid = Predictor(run).features([picture], layer="3b/3x3")
    np.testing.assert_allclose(grid, found["3b/3x3"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_without_the_average_there_is_fc(tmp_path: pathlib.Path, picture: Image.Image) -> None:
    config = tiny.config(*CONFIG, "--config.model.top=fc")
    predictor = Predictor(tiny.write_run(tmp_path / "run", config))
    with tiny.refused(r"--layer=pool5: there are conv1, .*, 5b, classifier, fc; and in", "layer"):
        features.shape(predictor, "pool5")
    variables = tiny.variables(config, 0)
    found = activations(GoogLeNet(**config.model), variables, views(picture, 1))
    classifier = variables["params"]["classifier"]
    logits = tiny.logits(GoogLeNet(**config.model), variables, views(picture, 1))
    np.testing.assert_allclose(found["fc"] @ classifier["kernel"], logits, rtol=1e-4, atol=1e-5)
    assert features.shape(predictor, "fc") == found["fc"].shape[1:]


def command(capfd, *args: str) -> tuple[int, str, str]:
    status = launch.main(["features", *args])
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return status, out, err


@pytest.mark.slow
def test_the_file(run, picture: Image.Image, tmp_path: pathlib.Path, capfd) -> None:
    names = ["a.png", "caf\udce9.png"]  # the second as Latin-1 has it
    for name in names:
        picture.save(tmp_path / name)
    (tmp_path / "bad.png").write_text("no image")
    output = tmp_path / "new" / "f.npz"
    pictures = [str(tmp_path / name) for name in (names[0], "bad.png", names[1])]
    args = [f"--checkpoint={run}", f"--output={output}"]
    for _ in range(2):  # its own file is replaced
        status, out, err = command(capfd, *args, "--json", *pictures)
        assert status == 1 and "bad.png: not an image" in err
    result = json.loads(out)
    with np.load(output) as file:
        assert sorted(file) == ["features", "images"]
        assert file["images"].tolist() == [pictures[0], pictures[2]]
        assert list(file["features"].shape) == result["shape"]
        wanted = Predictor(run).features([picture, picture])
        np.testing.assert_allclose(file["features"], wanted, rtol=1e-5, atol=1e-6)
    assert [path.name for path in output.parent.iterdir()] == ["f.npz"]
    assert result["file"] == str(output) and len(result["rejected"]) == 1
    before = output.read_bytes()
    status, out, _ = command(capfd, *args, "--json", pictures[1])
    assert status == 1 and json.loads(out)["file"] == "" and output.read_bytes() == before


@pytest.mark.slow
def test_wrong_arguments_are_one_line(run, picture, tmp_path: pathlib.Path, capfd) -> None:
    picture.save(tmp_path / "a.png")
    np.savez(tmp_path / "foreign.npz", mine=np.zeros(3))
    args = [f"--checkpoint={run}", f"--output={tmp_path}/f.npz", str(tmp_path / "a.png")]
    for wrong, status, message in (
        (["--layer=4a/3"], 1, "--layer=4a/3: there are conv1, conv2_reduce, conv2, 3a, 3b, 4a"),
        (["--layer=4a", "--crops=10"], 1, "--crops=10: 4a has positions"),
        ([f"--output={tmp_path}/foreign.npz"], 1, "a file of another kind exists"),
        (["--output=f.npy"], 2, "--output=f.npy: its name must end in .npz"),
        (["--output=gs://bucket/f.npz"], 2, "write a local file, then copy it there"),
        ([f"--checkpoint={run},{tmp_path}"], 2, "features are those of one network"),
    ):
        got, out, err = command(capfd, *args, *wrong)
        assert got == status and not out and message in err and len(err.splitlines()) == 1
    with pytest.raises(UserError, match=r"bad\.png: No such file"):
        Predictor(run).features([tmp_path / "bad.png"])
    assert Predictor(run).features([]).shape[0] == 0
