"""An ONNX file in 8 bits answers nearly as the one in float32, is smaller, and says what it is."""

import pathlib
import sys
from typing import NamedTuple

import cv2
import numpy as np
import onnx
import pytest
from PIL import Image

import launch
from inception.formats import export, int8
from inception.runtime.weights import load_network
from tests.cli.test_cli import fails
from tests.formats.test_export import NARROW, PX, Network, session, write_checkpoint

pytestmark = pytest.mark.slow

CALIBRATING = 8  # of a network's 32 images; the others test it


class Exported(NamedTuple):
    network: Network
    file: pathlib.Path
    bound: float  # on the RMS error of logits of variance 1


def write_pictures(folder: pathlib.Path, images: np.ndarray) -> pathlib.Path:
    """Of 256 px: the central crop of each is the image."""
    folder.mkdir()
    for number, image in enumerate(images):
        around = np.pad(image, [(16, 16), (16, 16), (0, 0)])
        Image.fromarray(around).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((0.2, "--config.model.norm=lrn", *NARROW), id="lrn"),
        pytest.param(
            (0.42, "--config.model.norm=batch", *NARROW), id="batch", marks=pytest.mark.faults
        ),
        pytest.param((0.5, "--config.model.norm=lrn"), id="lrn-whole", marks=pytest.mark.slow),
    ],
)
def exported(request, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("int8")
    bound, *overrides = request.param
    network = write_checkpoint(folder / "run", *overrides)
    photos = write_pictures(folder / "photos", network.images[:CALIBRATING])
    file = folder / "new" / "x.onnx"
    args = ["export", f"--checkpoint={network.folder}", f"--output={file}"]
    assert launch.main([*args, "--int8", f"--calibration={photos}"]) == 0
    return Exported(network, file, bound)


# The file


def test_it_answers_as_float32_does_in_any_batch(exported: Exported) -> None:
    """One scale for all channels of a layer exceeds the bounds, saturation those of narrow ones."""
    running = session(exported.file)
    assert running.get_inputs()[0].shape == ["batch", PX, PX, 3]
    assert running.get_outputs()[0].type == "tensor(float)"
    images = exported.network.images[CALIBRATING:]
    expected = exported.network.probabilities[CALIBRATING:]
    (got,) = running.run(None, {"images": images})
    (first,) = running.run(None, {"images": images[:1]})
    np.testing.assert_allclose(first, got[:1], rtol=0, atol=1e-3)
    error = np.sqrt(np.mean((np.log(got) - np.log(expected)) ** 2))
    assert error < exported.bound


def test_weights_are_in_8_bits_and_lrn_in_float(exported: Exported) -> None:
    graph = onnx.load(exported.file).graph
    types = {i.name: i.data_type for i in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 58
    for node in layers:
        assert [made_by[name].op_type for name in node.input] == ["DequantizeLinear"] * 3
        assert types[made_by[node.input[1]].input[0]] == onnx.TensorProto.UINT8
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) == (0 if exported.network.variables["batch_stats"] else 2)
    for node in products:
        assert made_by[node.input[0]].op_type == "Mul"
        assert types[node.input[1]] == onnx.TensorProto.FLOAT
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_it_says_what_it_is_and_is_smaller(exported: Exported) -> None:
    trained = load_network(str(exported.network.folder))
    metadata = session(exported.file).get_modelmeta().custom_metadata_map
    assert metadata == export.metadata(trained)
    assert [path.name for path in exported.file.parent.iterdir()] == ["x.onnx"]
    assert export.KINDS[".onnx"] in exported.file.read_bytes()[:1_000_000]  # may be replaced
    plain = export.onnx_file(trained)
    whole = len(plain) > 1e7  # of a narrow one the graph itself is most
    assert len(plain) / exported.file.stat().st_size > (3.7 if whole else 1.2)


def test_opencv_reads_it(exported: Exported) -> None:
    images = exported.network.images[:1]
    network = cv2.dnn.readNetFromONNX(str(exported.file))
    network.setInput(images)
    (expected,) = session(exported.file).run(None, {"images": images})
    np.testing.assert_allclose(network.forward(), expected, rtol=0, atol=0.05)


# Pictures


CONFIG = {
    "input_px": PX, "data": {"resize_px": 256, "resize": "short", "max_megapixels": 1.0},
}  # fmt: skip


def test_pictures_are_seen_as_in_evaluation_and_spread_over_the_folder(
    tmp_path, monkeypatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, PX, PX, 3), dtype=np.uint8)
    photos = write_pictures(tmp_path / "photos", images)
    monkeypatch.setattr(int8, "MOST_IMAGES", 3)
    np.testing.assert_array_equal(int8.calibration_images(str(photos), CONFIG), images[::2])
    (tmp_path / "list.txt").write_text(f"{photos}/001.png\n{photos}/004.png\n")
    got = int8.calibration_images(str(tmp_path / "list.txt"), CONFIG)
    np.testing.assert_array_equal(got, images[[1, 4]])


# What goes wrong


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return write_checkpoint(tmp_path_factory.mktemp("narrow"), *NARROW)


@pytest.mark.parametrize(
    ("name", "flags", "line"),
    [
        ("x.onnx", ["--int8"], "--int8 needs --calibration=PATH"),
        ("x.onnx", ["--int8", "--calibration="], "--int8 needs --calibration=PATH"),
        ("x.onnx", ["--calibration=photos"], "--calibration is for --int8"),
        ("x.stablehlo", ["--int8", "--calibration=photos"], "--int8 is for --output=FILE.onnx"),
    ],
)
def test_flags_that_do_not_fit(tmp_path, capfd, name: str, flags: list, line: str) -> None:
    args = ["export", f"--checkpoint={tmp_path}", f"--output={tmp_path}/{name}", *flags]
    assert line in fails(capfd, args, status=2)


def test_pictures_that_cannot_be_read(narrow, tmp_path, capfd) -> None:
    (tmp_path / "empty").mkdir()
    damaged = write_pictures(tmp_path / "damaged", narrow.images[:1])
    (damaged / "001.png").write_bytes(b"no picture")
    command = ["export", f"--checkpoint={narrow.folder}", f"--output={tmp_path}/x.onnx", "--int8"]
    for path, expected in (
        ("empty", f"{tmp_path}/empty: no picture in this folder"),
        ("damaged", f"--calibration: {damaged}/001.png"),
        ("missing", f"--calibration: {tmp_path}/missing: No such file"),
    ):
        args = [*command, f"--calibration={tmp_path}/{path}"]
        assert expected in fails(capfd, args, status=1)
    assert not (tmp_path / "x.onnx").exists()


def test_without_onnxruntime_it_says_what_to_install(narrow, tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # an import fails, as if it were missing
    monkeypatch.delitem(sys.modules, "inception.formats.int8")
    monkeypatch.delattr("inception.formats.int8")
    args = ["export", f"--checkpoint={narrow.folder}", f"--output={tmp_path}/x.onnx"]
    line = fails(capfd, [*args, "--int8", f"--calibration={tmp_path}"], status=1)
    assert "--int8 needs the package onnxruntime: pip install" in line
    assert launch.main(args) == 0  # float32 does not
