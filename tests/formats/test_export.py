"""A network in a file of another format computes what the model computes, and says what it is."""

import functools
import json
import os
import pathlib
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import optax
import pytest
import safetensors
import safetensors.numpy
from flax import traverse_util
from PIL import Image

import launch
from inception import UserError, pixels
from inception.config import load_config
from inception.formats import convert, export, to_onnx
from inception.model import GoogLeNet
from inception.runtime import checkpoint
from inception.runtime.weights import Trained
from inception.runtime.workdir import write_config
from inception.step import create_state
from tests import tiny
from tests.cli.test_cli import ENVIRONMENT, ROOT, fails

pytestmark = pytest.mark.usefixtures("short_network")


@pytest.fixture(scope="module")
def short_network() -> Iterator[None]:
    with tiny.short_network(*tiny.WITH_POOLS):
        yield


PX = 224
FORMATS = ("safetensors", "stablehlo", "onnx")


class Network(NamedTuple):
    """A checkpoint folder, and what its network makes of 32 images."""

    folder: pathlib.Path
    variables: dict
    images: np.ndarray
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        return np.asarray(jax.nn.softmax(self.logits))


def model_logits(model: GoogLeNet, normalization: str, variables: dict, images: jax.Array):
    return model.apply(variables, pixels.normalize(images, method=normalization), train=False)[
        "main"
    ]


def random_leaf(path: tuple, leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
    """Like trained ones: no bias is 0, no BatchNorm the identity."""
    name = path[-1].key
    if name in ("scale", "var"):
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    deviation = np.sqrt(2 / np.prod(leaf.shape[:-1])) if name == "kernel" else 0.1
    return (deviation * rng.standard_normal(leaf.shape)).astype(np.float32)


def write_checkpoint(folder: pathlib.Path, *overrides: str) -> Network:
    """As train leaves one, its logits of mean 0 and variance 1 for each class."""
    config = load_config("experiments/base.py", list(overrides))
    model = GoogLeNet(**config.model)
    shapes = jax.eval_shape(
        functools.partial(create_state, model, optax.sgd(0.1), seed=0, input_px=PX)
    )
    rng = np.random.default_rng(0)
    variables = jax.tree_util.tree_map_with_path(
        functools.partial(random_leaf, rng=rng), shapes.raw_variables()
    )
    tiles = rng.integers(0, 256, (32, 7, 7, 3), dtype=np.uint8)
    images = tiles.repeat(PX // 7, axis=1).repeat(PX // 7, axis=2)
    images ^= rng.integers(0, 32, images.shape, dtype=np.uint8)
    logits = np.asarray(
        jax.jit(functools.partial(model_logits, model, config.data.normalization))(
            variables, images
        )
    )
    mean, deviation = logits.mean(axis=0), logits.std(axis=0)
    classifier = variables["params"]["classifier"]
    classifier["kernel"] /= deviation
    classifier["bias"] = (classifier["bias"] - mean) / deviation

    write_config(json.loads(config.to_json()), str(folder))
    classes = tuple(f"n{i:08}" for i in range(config.model.classes))
    checkpoint.write_classes(str(folder), classes)
    checkpoints = checkpoint.Checkpoints(str(folder))
    checkpoints.save(
        7, shapes.replace(step=np.array(7, np.int32), **variables, opt_state={}, average={})
    )
    checkpoints.close()
    return Network(folder, variables, images, (logits - mean) / deviation)


NARROW = ("--config.model.width=0.1", "--config.model.classes=10")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("--config.model.norm=lrn", *NARROW), id="lrn"),
        pytest.param(("--config.model.norm=batch", *NARROW), id="batch", marks=pytest.mark.slow),
        pytest.param(("--config.model.norm=lrn",), id="lrn-whole", marks=pytest.mark.slow),
        pytest.param(("--config.model.norm=batch",), id="batch-whole", marks=pytest.mark.faults),
    ],
)
def network(request, tmp_path_factory: pytest.TempPathFactory) -> Network:
    return write_checkpoint(tmp_path_factory.mktemp("run"), *request.param)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return write_checkpoint(tmp_path_factory.mktemp("narrow"), *NARROW)


def exported(capfd, folder: pathlib.Path, output: pathlib.Path) -> dict:
    """What the command says."""
    capfd.readouterr()
    args = ["export", f"--checkpoint={folder}", f"--output={output}", "--json"]
    assert launch.main(args) == 0, capfd.readouterr().err
    return json.loads(capfd.readouterr().out)


def parameters(network: Network, *, heads: bool) -> int:
    used = {k: v for k, v in network.variables["params"].items() if heads or k[:5] != "head_"}
    return sum(leaf.size for leaf in jax.tree.leaves(used))


def session(model: onnx.ModelProto | pathlib.Path) -> onnxruntime.InferenceSession:
    content = str(model) if isinstance(model, pathlib.Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


# Agreement with the model


def agree(got: np.ndarray, probabilities: np.ndarray) -> None:
    """To 1e-4; of a thousand classes most are below that, so their logarithms too."""
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, probabilities, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.log(got), np.log(probabilities), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_probabilities_to_agree_with_tell_images_and_classes_apart(network) -> None:
    assert np.ptp(network.probabilities, axis=0).max() > 2 / network.logits.shape[1]
    assert 0.5 < network.logits.std() < 1.5


def test_onnx_agrees_in_any_batch(network, tmp_path, capfd) -> None:
    path = tmp_path / "x.onnx"
    assert exported(capfd, network.folder, path) == {
        "file": str(path), "format": "onnx", "opset": 18,
        "parameters": parameters(network, heads=False),
    }  # fmt: skip
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    running = session(path)
    (images,), (probabilities,) = running.get_inputs(), running.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", PX, PX, 3]
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert probabilities.shape == ["batch", network.logits.shape[1]]
    for count in (1, 3, 32):
        (got,) = running.run(None, {"images": network.images[:count]})
        agree(got, network.probabilities[:count])


def test_onnx_agrees_in_opencv(network, tmp_path, capfd) -> None:
    path = tmp_path / "x.onnx"
    exported(capfd, network.folder, path)
    for engine in (cv2.dnn.ENGINE_CLASSIC, cv2.dnn.ENGINE_NEW):
        running = cv2.dnn.readNetFromONNX(str(path), engine)
        running.setInput(network.images[:2])
        agree(running.forward(), network.probabilities[:2])


@pytest.mark.slow
def test_stablehlo_of_one_batch_size_has_no_symbol(narrow, tmp_path, capfd) -> None:
    path = tmp_path / "x.stablehlo"
    command = ["export", f"--checkpoint={narrow.folder}", "--batch_size=2"]
    assert launch.main([*command, f"--output={path}"]) == 0
    file = jax.export.deserialize(bytearray(path.read_bytes()))
    assert file.in_avals[0].shape == (2, *narrow.images.shape[1:])
    assert launch.main([*command, f"--output={tmp_path}/x.safetensors"]) == 2
    assert "--batch_size is for --output=FILE.stablehlo" in capfd.readouterr().err


@pytest.mark.slow
def test_stablehlo_agrees_in_a_process_that_knows_jax_alone(network, tmp_path, capfd) -> None:
    path = tmp_path / "x.stablehlo"
    assert exported(capfd, network.folder, path) == {
        "file": str(path), "format": "stablehlo", "parameters": parameters(network, heads=False)
    }  # fmt: skip
    np.save(tmp_path / "images.npy", network.images)
    script = """
import sys
import jax.export
import numpy as np
exported = jax.export.deserialize(open("x.stablehlo", "rb").read())
assert exported.platforms == ("cpu", "cuda", "tpu")
images = np.load("images.npy")
for count in (1, 32):
    np.save(f"{count}.npy", exported.call(images[:count]))
assert not {"inception", "flax"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, check=True)
    for count in (1, 32):
        agree(np.load(tmp_path / f"{count}.npy"), network.probabilities[:count])


def test_safetensors_hold_every_array_and_what_rebuilds_the_network(
    network, tmp_path, capfd
) -> None:
    path = tmp_path / "x.safetensors"
    assert exported(capfd, network.folder, path) == {
        "file": str(path), "format": "safetensors", "parameters": parameters(network, heads=True)
    }  # fmt: skip
    arrays = safetensors.numpy.load_file(path)
    expected = traverse_util.flatten_dict(network.variables, sep="/")
    assert "params/3a/5x5_reduce/Conv_0/kernel" in arrays
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert metadata["step"] == 7
    assert (
        metadata["classes"][1] == "n00000001"
        and len(metadata["classes"]) == network.logits.shape[1]
    )
    config = metadata["config"]
    rebuilt = functools.partial(
        model_logits, GoogLeNet(**config["model"]), config["data"]["normalization"]
    )
    got = jax.jit(rebuilt)(traverse_util.unflatten_dict(arrays, sep="/"), network.images[:1])
    np.testing.assert_allclose(got, network.logits[:1], rtol=0, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("px", "overrides"),
    [(67, ("--config.model.module=naive",)),
     (64, ("--config.model.norm=none", "--noconfig.model.biases")),
     (66, ("--config.model.dtype=bfloat16", "--config.data.normalization=symmetric")),
     (65, ("--config.model.pool4_px=2", "--config.model.conv5x5_px=3", "--config.model.norm=batch")),
     (66, ("--config.model.padding=same",)),
     (63, ("--config.model.norm=batch", "--noconfig.model.biases")),
     (96, ("--config.model.top=fc", "--config.data.normalization=unit"))],
)  # fmt: skip
def test_other_networks_too_bfloat16_ones_in_float32(px: int, overrides: tuple) -> None:
    sizes = (f"--config.input_px={px}", "--config.model.heads=False")
    config = load_config("experiments/base.py", [*NARROW, *sizes, *overrides])
    wide = GoogLeNet(**{**config.model, "dtype": "float32"})
    images = np.random.default_rng(0).integers(0, 256, (2, px, px, 3), dtype=np.uint8)
    shapes = jax.eval_shape(
        functools.partial(wide.init, train=False), jax.random.key(0), jnp.zeros(images.shape)
    )
    rng = np.random.default_rng(0)
    variables = jax.tree_util.tree_map_with_path(functools.partial(random_leaf, rng=rng), shapes)
    trained = Trained(config.to_dict(), (), variables, 0)
    model = onnx.load_from_string(export.onnx_file(trained))
    for_int8 = to_onnx.convert(trained, opset=export.OPSET, metadata={}, for_int8=True)
    logits = jax.jit(functools.partial(model_logits, wide, config.data.normalization))(
        variables, images
    )
    for made in (model, for_int8):
        (got,) = session(made).run(None, {"images": images})
        np.testing.assert_allclose(got, jax.nn.softmax(logits), rtol=0, atol=1e-4)
    read = {i.name: np.prod(i.dims) for i in model.graph.initializer}
    assert sum(read.values()) == 2 * 3 + sum(leaf.size for leaf in jax.tree.leaves(variables))


# The files


def test_onnx_says_what_it_is(narrow, tmp_path, capfd) -> None:
    exported(capfd, narrow.folder, tmp_path / "x.onnx")
    metadata = session(tmp_path / "x.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"])[1] == "n00000001"
    assert json.loads(metadata["config"])["input_px"] == PX


@pytest.mark.slow
def test_the_examples_of_the_page_run(narrow, tmp_path, monkeypatch, capfd) -> None:
    page = (ROOT / "docs/how-to/export.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/imagenet").symlink_to(narrow.folder)
    (tmp_path / "PHOTOS").mkdir()
    for name in ("cat.jpg", "PHOTOS/dog.jpg"):
        Image.fromarray(narrow.images[0]).resize((300, 200)).save(name)
    commands = re.findall(r"^    python launch\.py (export .*)$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        assert launch.main(shlex.split(command, comments=True)) == 0
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 4  # the image, then each format
    space: dict = {}
    results = []
    for example in examples:
        exec(example, space)
        results.append(space.get("probabilities"))
        space.pop("probabilities", None)
    assert space["images"].shape == (1, PX, PX, 3) and results[0] is None
    agree(np.asarray(results[1]), np.asarray(results[2]))
    agree(np.asarray(results[1]), np.asarray(results[3]))
    assert space["name"] in (narrow.folder / "classes.txt").read_text().splitlines()


# What goes wrong


@pytest.mark.parametrize("name", ["x.pt", "x"])
def test_an_unknown_suffix_names_the_three(tmp_path, capfd, name: str) -> None:
    args = ["export", f"--checkpoint={tmp_path}", f"--output={tmp_path / name}"]
    line = fails(capfd, args, status=2)
    assert all(f".{known}" in line for known in FORMATS) and name in line


@pytest.mark.slow
def test_the_best_checkpoint_and_a_suffix_in_capitals(tmp_path, capfd) -> None:
    config = tiny.config("--config.input_px=33", "--config.model.heads=False")
    folder = tiny.write_run(tmp_path / "run", config)
    saved = checkpoint.Checkpoints(folder)
    for step, top1 in ((1, 0.9), (2, 0.1)):
        state = {**tiny.variables(config, step), "average": {}, "step": np.int32(step)}
        saved.save(step, state, top1=top1)
    saved.close()
    for flags, step in (([], "2"), (["--best"], "1")):
        path = tmp_path / f"{step}.SAFETENSORS"
        assert launch.main(["export", f"--checkpoint={folder}", f"--output={path}", *flags]) == 0
        with safetensors.safe_open(path, "numpy") as file:
            assert file.metadata()["step"] == step


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_without_a_network(tmp_path, capfd, name: str) -> None:
    args = ["export", f"--checkpoint={tmp_path}", f"--output={tmp_path}/x.{name}"]
    assert "no config.json" in fails(capfd, args, status=1)
    assert not any(tmp_path.iterdir())


def test_without_onnx_it_says_what_to_install(narrow, tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # an import of it fails, as if it were missing
    monkeypatch.delitem(sys.modules, "inception.formats.to_onnx", raising=False)
    monkeypatch.delattr("inception.formats.to_onnx", raising=False)
    args = ["export", f"--checkpoint={narrow.folder}", f"--output={tmp_path}/x.onnx"]
    assert "pip install -c requirements.txt -e '.[export]'" in fails(capfd, args, status=1)


def test_folders_are_made_and_a_file_is_replaced(narrow, tmp_path, capfd) -> None:
    path = tmp_path / "new" / "folder" / "x.safetensors"
    exported(capfd, narrow.folder, path)
    path.write_bytes(path.read_bytes()[:20_000])
    exported(capfd, narrow.folder, path)
    assert "params/conv1/Conv_0/kernel" in safetensors.numpy.load_file(path)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", export.FORMATS)
def test_a_file_of_another_program_is_not_replaced(narrow, tmp_path, capfd, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"another's")
    args = ["export", f"--checkpoint={narrow.folder}", f"--output={path}"]
    assert "a file of another kind exists" in fails(capfd, args, status=1)
    assert path.read_bytes() == b"another's" and os.listdir(tmp_path) == [path.name]
    path.write_bytes(export.FORMATS[suffix](export.load_network(str(narrow.folder))))
    export.run(str(narrow.folder), str(path))


def test_where_nothing_can_be_written(narrow, tmp_path, capfd) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for output in ("file/x.safetensors", "folder.safetensors"):
        args = ["export", f"--checkpoint={narrow.folder}", f"--output={tmp_path}/{output}"]
        assert f"{output} cannot be written" in fails(capfd, args, status=1)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.safetensors"]


def test_a_full_disk_keeps_the_older_file_and_leaves_no_half_one(narrow, tmp_path, capfd) -> None:
    """A real failure: files may not grow above a size, which this one does."""
    path = tmp_path / "x.safetensors"
    older = b'"params/conv1/older'
    path.write_bytes(older)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        args = ["export", f"--checkpoint={narrow.folder}", f"--output={path}"]
        line = fails(capfd, args, status=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot be written" in line
    assert path.read_bytes() == older and os.listdir(tmp_path) == [path.name]


# Reading: a .onnx file that convert cannot take


def test_convert_refuses_an_export_and_names_the_folder_to_take(narrow, tmp_path, capfd) -> None:
    exported(capfd, narrow.folder, tmp_path / "x.onnx")
    with pytest.raises(UserError, match="written by export: take the run's folder"):
        convert.read("onnx", str(tmp_path / "x.onnx"))


def test_convert_reads_what_the_package_onnx_writes_and_refuses_what_lies_outside(tmp_path) -> None:
    arrays = {
        "conv1/7x7_s2_w_0": np.arange(64 * 3 * 49, dtype=np.float32).reshape(64, 3, 7, 7),
        "half": np.array([[0.5, -2]], np.float16),
        "double": np.array(1 / 3),
        "shape": np.array([1, 1024]),
    }
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    brain = onnx.helper.make_tensor("brain", onnx.TensorProto.BFLOAT16, [2], [1.5, -3])
    graph = onnx.helper.make_graph([], "net", [], [], [*constants, brain])
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    got = convert.read("onnx", str(path)).arrays
    assert got.keys() == {"conv1/7x7_s2_w_0", "half", "double", "brain"}
    arrays["conv1/7x7_s2_w_0"] = arrays["conv1/7x7_s2_w_0"][:, ::-1]
    for name in ("conv1/7x7_s2_w_0", "half", "double"):
        assert got[name].dtype == arrays[name].dtype
        np.testing.assert_array_equal(got[name], arrays[name])
    np.testing.assert_array_equal(got["brain"].astype(np.float32), [1.5, -3])

    onnx.save(onnx.helper.make_model(graph), path, save_as_external_data=True, size_threshold=99)
    with pytest.raises(UserError, match=r"keeps weights in other files: onnx\.save"):
        convert.read("onnx", str(path))
    onnx.save(onnx.load(path), tmp_path / "one.onnx")  # as the line says
    assert convert.read("onnx", str(tmp_path / "one.onnx")).arrays.keys() == got.keys()

    int8 = onnx.numpy_helper.from_array(np.zeros((2, 2), np.int8), "conv1/7x7_s2_w_0_quantized")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "net", [], [], [int8])), path)
    with pytest.raises(UserError, match="has weights of 8 bits"):
        convert.read("onnx", str(path))
