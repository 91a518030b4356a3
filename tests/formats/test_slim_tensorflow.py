"""TF-slim's checkpoints beside TensorFlow itself: its files, its operations, its reading of ours.

`make test` runs this where the extra prepare is installed.
"""

import importlib
import importlib.util
import pathlib
from typing import Any

import numpy as np
import pytest

import launch
from inception.formats import slim, tf_checkpoint
from inception.formats.convert import read
from inception.model import TABLE_1
from tests.formats.test_pretrained import command, logits
from tests.formats.test_slim import v1, variables

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("tensorflow"), reason="TensorFlow is not installed"
)
tf: Any = None


@pytest.fixture(autouse=True, scope="module")
def _tensorflow() -> None:
    """Imported when the first test runs: others of this process look whether the project imports it."""
    global tf
    tf = importlib.import_module("tensorflow")


TENSORS = {
    "a/float": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "a/zeros": np.zeros((70, 80), np.float32),
    "double": np.array([1 / 3, -2]),
    "half": np.array([0.5, 65504], np.float16),
    "step": np.array(7, np.int64),
    "int": np.array([[1, -2]], np.int32),
    "empty": np.zeros((0, 3), np.float32),
}


def save(path: pathlib.Path, arrays: dict[str, np.ndarray], *, bundle: bool) -> pathlib.Path:
    """As TensorFlow writes them."""
    names, tensors = list(arrays), [tf.constant(a) for a in arrays.values()]
    if bundle:
        whole = [""] * len(names)
        tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=whole, tensors=tensors)  # fmt: skip
    else:
        tf.raw_ops.Save(filename=str(path), tensor_names=names, data=tensors)
    return path


@pytest.mark.parametrize("bundle", [False, True])
def test_every_kind_of_tensor_that_tensorflow_writes(tmp_path, bundle: bool) -> None:
    tensors = dict(TENSORS)
    if bundle:
        tensors["text"] = np.array([b"abc"])  # is left out
        tensors["brain"] = np.array([1.5, -3], "bfloat16")
    got = tf_checkpoint.read(str(save(tmp_path / "x.ckpt", tensors, bundle=bundle)))
    assert got.keys() == tensors.keys() - {"text"}
    for name, array in got.items():
        np.testing.assert_array_equal(array, tensors[name], strict=True)


@pytest.mark.parametrize("compress", [False, True])
def test_tensorflow_reads_the_tables_that_the_tests_write(tmp_path, compress: bool) -> None:
    """Compressed ones too: TensorFlow of 2026 writes none, and checks that blocks are whole."""
    arrays = {n: a for n, a in TENSORS.items() if a.dtype in (np.float32, np.float64) and a.size}
    path = v1(tmp_path / "x.ckpt", arrays, compress=compress, checksums=True)
    reader = tf.train.load_checkpoint(str(path))
    for name, array in arrays.items():
        np.testing.assert_array_equal(reader.get_tensor(name), array, strict=True)


def test_a_partitioned_variable_is_refused(tmp_path) -> None:
    for op, out in (("SaveV2", "two.ckpt"), ("SaveSlices", "one.ckpt")):
        names, parts = ["a", "a"], ["4 3 0,2:-", "4 3 2,2:-"]
        halves = [tf.zeros((2, 3)), tf.ones((2, 3))]
        path = str(tmp_path / out)
        if op == "SaveV2":
            tf.raw_ops.SaveV2(prefix=path, tensor_names=names, shape_and_slices=parts, tensors=halves)  # fmt: skip
        else:
            tf.raw_ops.SaveSlices(filename=path, tensor_names=names, shapes_and_slices=parts, data=halves)  # fmt: skip
        with pytest.raises(ValueError, match="keeps a in several parts"):
            read("slim", path)


def slims_logits(arrays: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Slim's inception_v1 in evaluation, of TensorFlow's operations, with SAME everywhere."""

    def conv(x, layer: str, stride: int = 1):
        name = slim.LAYERS[layer]
        x = tf.nn.conv2d(x, arrays[f"{name}/weights"], stride, "SAME")
        beta, mean, variance = (
            arrays[f"{name}/BatchNorm/{part}"]
            for part in ("beta", "moving_mean", "moving_variance")
        )
        return tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, beta, None, 1e-3))

    def pool(x, window: int, stride: int):
        return tf.nn.max_pool2d(x, window, stride, "SAME")

    x = tf.constant((images / 127.5 - 1).astype(np.float32))
    x = pool(conv(x, "conv1", 2), 3, 2)
    x = pool(conv(conv(x, "conv2_reduce"), "conv2"), 3, 2)
    for row in TABLE_1:
        branches = [
            conv(x, f"{row}/1x1"),
            conv(conv(x, f"{row}/3x3_reduce"), f"{row}/3x3"),
            conv(conv(x, f"{row}/5x5_reduce"), f"{row}/5x5"),
            conv(pool(x, 3, 1), f"{row}/pool_proj"),
        ]
        x = tf.concat(branches, 3)
        if row in ("3b", "4e"):
            x = pool(x, *((3, 2) if row == "3b" else (2, 2)))
    x = tf.reduce_mean(x, (1, 2), keepdims=True)
    name = slim.LAYERS["classifier"]
    x = tf.nn.conv2d(x, arrays[f"{name}/weights"], 1, "SAME")
    return (x + arrays[f"{name}/biases"])[:, 0, 0].numpy()


@pytest.mark.parametrize("bundle", [False, True])
def test_slims_network_gives_tensorflows_logits(tmp_path, capfd, bundle: bool) -> None:
    """At 224 px, an even and an odd smaller size."""
    arrays = variables(classes=1001)
    path = save(tmp_path / "inception_v1.ckpt", arrays, bundle=bundle)
    assert launch.main(command("slim", path, tmp_path / "out")) == 0
    rng = np.random.default_rng(0)
    for px in (97,) if bundle else (224, 66):
        images = rng.integers(0, 256, (2, px, px, 3), dtype=np.uint8)
        got = logits(tmp_path / "out", images, heads=False)["main"]
        expected = slims_logits(arrays, images)
        assert expected.std() > 0.1
        np.testing.assert_allclose(got, expected, atol=2e-4, rtol=2e-5)
    if not bundle:  # the comparison tells the paddings apart
        config = tmp_path / "out/config.json"
        config.write_text(config.read_text().replace('"same"', '"symmetric"'))
        other = logits(tmp_path / "out", images, heads=False)["main"]
        assert np.abs(other - expected).max() > 0.01
