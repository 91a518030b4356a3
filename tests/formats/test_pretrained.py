"""Published weights: the same numbers as where they come from, and files that are refused."""

import contextlib
import json
import os
import pathlib
import pickle
import shutil
from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np
import pytest

import launch
from inception import UserError, pixels, train
from inception.config import run_config
from inception.data import cropping, decoding, imagenet
from inception.formats import caffe, onnx_zoo, torchvision
from inception.formats.convert import read
from inception.model import GoogLeNet
from inception.runtime import checkpoint, sharding
from inception.runtime.weights import load_trained
from inception.runtime.workdir import read_config
from tests import record_torchvision as recorded
from tests.cli.test_cli import fails, process

SHAPES: dict[str, list[int]] = json.loads((recorded.RECORDED / "googlenet.json").read_text())["shapes"]  # fmt: skip
COUNTERS = [name for name in SHAPES if name.endswith("num_batches_tracked")]


def command(source: str, path: pathlib.Path, output: pathlib.Path, *overrides: str) -> list[str]:
    return ["convert", f"--source={source}", f"--input={path}", f"--output={output}", *overrides]


def convert(capfd, source: str, path: pathlib.Path, output: pathlib.Path, *overrides: str) -> dict:
    assert launch.main([*command(source, path, output, *overrides), "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result.keys() == {"parameters", "ignored", "missing"}
    assert not output.with_name(f"{output.name}.incomplete").exists()
    return result


def logits(workdir: pathlib.Path, batch: np.ndarray, *, heads: bool) -> dict[str, np.ndarray]:
    """A converted network on uint8 images, with `heads` all three of it, dropout off."""
    config, _, variables, _ = load_trained(str(workdir))
    model = GoogLeNet(**{**config["model"], "dropout": 0.0, "head_dropout": 0.0})

    def running_average(next_fun, args, kwargs, context):
        """The heads are there in training only, where BatchNorm would look at the batch."""
        if isinstance(context.module, nn.BatchNorm):
            object.__setattr__(context.module, "use_running_average", True)
        return next_fun(*args, **kwargs)

    @jax.jit
    def run(variables, batch):
        x = pixels.normalize(batch, method=config["data"]["normalization"])
        with nn.intercept_methods(running_average):
            return model.apply(variables, x, train=heads)

    return jax.device_get(run(variables, batch))


def close(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys() == {"main", "4a", "4d"}
    for head, values in expected.items():
        values = np.asarray(values)
        np.testing.assert_allclose(got[head][:, : values.shape[1]], values, atol=1e-4, rtol=2e-5)


# torchvision


def state_dict(*, heads: bool = True, classes: int = 1000) -> dict[str, np.ndarray]:
    last = {"fc.weight": (classes, 1024), "fc.bias": (classes,)}
    return {
        name: recorded.draw(name, last.get(name, tuple(shape)))
        for name, shape in SHAPES.items()
        if heads or not name.startswith("aux")
    }


def save(arrays: dict[str, np.ndarray], path: pathlib.Path) -> pathlib.Path:
    from safetensors.numpy import save_file

    save_file(arrays, path)
    return path


@pytest.mark.slow
def test_torchvisions_names_and_numbers_as_they_were_recorded(tmp_path, capfd) -> None:
    """Three heads, without PyTorch; at 80 px the pools of the two networks agree."""
    path, output = save(state_dict(), tmp_path / "googlenet.safetensors"), tmp_path / "out"
    result = convert(capfd, "torchvision", path, output)
    assert result["parameters"] == 13_004_888 and result["missing"] == []
    assert set(result["ignored"]) == set(COUNTERS)
    expected = json.loads((recorded.RECORDED / "googlenet.json").read_text())["logits"]
    close(logits(output, recorded.draw_images(recorded.PX), heads=True), expected)
    config = read_config(str(output))
    assert config["model"]["dropout"] == 0.2 and config["data"]["resize"] == "short"
    assert load_trained(str(output)).classes == imagenet.CLASSES
    fitting = run_config(str(output), [])
    assert GoogLeNet(**fitting.model) and fitting.data.normalization == "symmetric"


@pytest.fixture
def torch_googlenet():
    """torchvision's module with drawn weights; skips where it is not to be had."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    try:
        import torchvision.models  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another PyTorch
        pytest.skip(f"torchvision cannot be imported: {error}")
    return recorded.torch_googlenet


@pytest.mark.parametrize(
    ("kind", "transform_input", "overrides"),
    [
        ("zip", True, ()),
        ("stream", False, ("--config.data.normalization=unit",)),
    ],
)
def test_torchvisions_own_module_gives_the_same_logits(
    torch_googlenet, tmp_path, capfd, kind: str, transform_input: bool, overrides: tuple
) -> None:
    import torch

    module = torch_googlenet(transform_input=transform_input)
    path, output = tmp_path / "googlenet.pth", tmp_path / "out"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    result = convert(capfd, "torchvision", path, output, *overrides)
    assert result["parameters"] == sum(p.numel() for p in module.parameters())
    batch = recorded.draw_images(224)
    close(logits(output, batch, heads=True), recorded.torch_logits(module, batch))


@pytest.mark.slow
def test_a_fine_tuned_network_of_ten_classes_without_heads(tmp_path, capfd) -> None:
    arrays = state_dict(heads=False, classes=10)
    path, output = save(arrays, tmp_path / "ten.SAFETENSORS"), tmp_path / "out"
    result = convert(capfd, "torchvision", path, output)
    assert result["parameters"] == 6_624_904 - 990 * 1025
    assert result["missing"] == [n for n in SHAPES if n.startswith("aux") and n not in COUNTERS]
    trained = load_trained(str(output))
    assert trained.classes == tuple(f"class {i}" for i in range(10))
    assert trained.config["model"]["heads"] is False and trained.step == 0
    np.testing.assert_array_equal(trained.variables["params"]["classifier"]["kernel"], arrays["fc.weight"].T)  # fmt: skip


@pytest.mark.slow
def test_the_classes_of_the_weights_may_be_named(tmp_path, capfd, files) -> None:
    path = save(state_dict(heads=False, classes=3), tmp_path / "three.safetensors")
    names = tmp_path / "names.txt"
    names.write_text("\ufeffant\nbee hive\n\ncat\n")
    convert(capfd, "torchvision", path, tmp_path / "named", f"--classes={names}")
    assert load_trained(str(tmp_path / "named")).classes == ("ant", "bee hive", "cat")
    line = refused(capfd, tmp_path, "caffe", files["caffe"], f"--classes={names}")
    assert f"--classes={names} names 3 classes, and the weights have 1000" in line
    line = refused(capfd, tmp_path, "torchvision", path, f"--classes={tmp_path}/no")
    assert "cannot be read" in line


@pytest.mark.slow
def test_heads_of_other_classes_are_left_out_and_told(tmp_path, capfd) -> None:
    """As where the main classifier alone was replaced, for fine-tuning."""
    arrays = state_dict(classes=10) | {"extra.weight": np.zeros(3, np.float32)}
    path = save(arrays, tmp_path / "ten.safetensors")
    result = convert(capfd, "torchvision", path, tmp_path / "out")
    assert result["missing"] == [] and result["parameters"] == 6_624_904 - 990 * 1025
    heads = [name for name in SHAPES if name.startswith("aux")]
    assert set(result["ignored"]) == {*COUNTERS, *heads, "extra.weight"}
    assert read_config(str(tmp_path / "out"))["model"]["heads"] is False
    line = refused(capfd, tmp_path / "out", "torchvision", path, "--config.model.heads=True")
    assert "need False" in line
    assert launch.main(command("torchvision", path, tmp_path / "o")) == 0
    assert "aux1" in (out := capfd.readouterr().out) and "ignored" in out


# What may be done with the result


@pytest.mark.slow
def test_the_checkpoint_is_a_whole_train_state(tmp_path, capfd) -> None:
    output = tmp_path / "out"
    path = save(state_dict(heads=False, classes=10), tmp_path / "ten.safetensors")
    convert(capfd, "torchvision", path, output)
    config = run_config(str(output), [])
    assert config.optim.polyak_decay == 0
    training = train.build(config, sharding.make_mesh(), steps_per_epoch=10, total_steps=900)
    checkpoints = checkpoint.Checkpoints(str(output))
    state = checkpoints.restore(sharding.replicated_shapes(training.init, training.mesh))
    checkpoints.close()
    assert int(state.step) == 0 and state.average == {}
    np.testing.assert_array_equal(
        state.params["conv1"]["Conv_0"]["kernel"],
        recorded.draw("conv1.conv.weight", (64, 3, 7, 7)).transpose(2, 3, 1, 0),
    )
    initial = training.tx.init(state.params)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(initial)
    assert all(not leaf.any() for leaf in jax.tree.leaves(state.opt_state))


@pytest.mark.faults
def test_training_goes_on_from_it(tmp_path, capfd) -> None:
    output = tmp_path / "out"
    path = save(state_dict(heads=False, classes=10), tmp_path / "ten.safetensors")
    overrides = ("--config.data.source=synthetic", "--config.data.examples=16", "--config.optim.batch_size=8",
                 "--config.optim.epochs=1.", "--config.input_px=64", "--config.data.resize_px=64",
                 "--config.optim.learning_rate=1e-4")  # fmt: skip
    convert(capfd, "torchvision", path, output, *overrides)
    experiment = tmp_path / "experiment.py"
    experiment.write_text(
        "from ml_collections import ConfigDict\nfrom inception.runtime.workdir import read_config\n"
        f"def get_config(): return ConfigDict(read_config({str(output)!r}))\n"
    )
    args = ["train", f"--config={experiment}", f"--workdir={output}", "--json"]
    assert launch.main(args) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["steps"] == 2
    trained = load_trained(str(output))
    assert trained.step == 2
    moved = trained.variables["params"]["conv1"]["Conv_0"]["kernel"]
    start = recorded.draw("conv1.conv.weight", (64, 3, 7, 7)).transpose(2, 3, 1, 0)
    assert 0 < np.abs(moved - start).max() < 0.1 * np.abs(start).max()


# Caffe


def blob(blobs, array: np.ndarray, *, legacy: bool, double: bool, raw: str = "") -> None:
    added = blobs.add()
    if raw:
        added.raw_data_type = {"float32": 1, "float16": 2}[raw]
        added.raw_data = array.astype(raw).tobytes()
    else:
        (added.double_data if double else added.data).extend(array.ravel().tolist())
    if legacy:
        shape = (1,) * (4 - array.ndim) + array.shape
        added.num, added.channels, added.height, added.width = shape
    else:
        added.shape.dim.extend(array.shape)


def caffe_shapes(*, heads: bool) -> dict[str, tuple[int, ...]]:
    """Layer -> shape of its weights, from torchvision's, whose 5x5 are 3x3."""
    shapes = {}
    ours = [n for n in caffe.LAYERS if not n.startswith("head_")]
    for row in ("4a", "4d"):  # Caffe's order is the network's: a head follows its module
        after = ours.index(f"{row}/pool_proj") + 1
        ours[after:after] = [f"head_{row}/{name}" for name in ("conv", "fc", "classifier")]
    for layer in ours:
        name = caffe.LAYERS[layer]
        theirs = torchvision.LAYERS[layer]
        shape = SHAPES.get(f"{theirs}.conv.weight") or SHAPES[f"{theirs}.weight"]
        if heads or not layer.startswith("head_"):
            shapes[name] = (*shape[:2], 5, 5) if layer.endswith("/5x5") else tuple(shape)
    return shapes


def caffemodel(
    path: pathlib.Path,
    *,
    heads: bool,
    v1: bool = False,
    legacy: bool = False,
    double: bool = False,
    raw: str = "",
    renamed: Mapping[str, tuple[str, int]] = {},
) -> dict[str, list[np.ndarray]]:
    """Writes a .caffemodel of drawn numbers; returns them, by layer.

    Args:
        renamed: {layer: (another name, classes)}.
    """
    net, weights = caffe.net_parameter()(), {}
    for name, shape in caffe_shapes(heads=heads).items():
        if name in renamed:
            name, shape = renamed[name][0], (renamed[name][1], *shape[1:])
        drawn = recorded.draw(name, shape), recorded.draw(f"{name} bias", shape[:1])
        weights[name] = [a.astype(raw or "float32").astype("float32") for a in drawn]
        layer = (net.layers if v1 else net.layer).add(name=name)
        for array in weights[name]:
            blob(layer.blobs, array, legacy=legacy, double=double, raw=raw)
        (net.layers if v1 else net.layer).add(name=f"{name} relu")
    path.write_bytes(net.SerializeToString())
    return weights


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        {"v1": True, "legacy": True, "heads": True},
        {"legacy": True, "heads": False},
        {"double": True, "heads": False},
        {"raw": "float32", "heads": False},  # as DIGITS writes them
        {"raw": "float16", "heads": False},
    ],
    ids=str,
)  # fmt: skip
def test_caffes_layouts(tmp_path, capfd, rng, layout: dict) -> None:
    path, output = tmp_path / "net.caffemodel", tmp_path / "out"
    weights = caffemodel(path, **layout)
    heads = [name for name in caffe_shapes(heads=True) if name.startswith(("loss1/", "loss2/"))]
    result = convert(capfd, "caffe", path, output)
    assert result == {
        "parameters": 13_378_280 if layout["heads"] else 6_998_552,
        "ignored": [],
        "missing": [] if layout["heads"] else heads,
    }
    params = load_trained(str(output)).variables["params"]

    # A convolution, one output by hand: the image's RGB is Caffe's BGR.
    kernel, bias = weights["conv1/7x7_s2"]
    rgb = rng.normal(size=(7, 7, 3)).astype(np.float32)
    ours = np.einsum("hwi,hwio->o", rgb, params["conv1"]["Conv_0"]["kernel"])
    np.testing.assert_allclose(ours, np.einsum("ihw,oihw->o", rgb[..., ::-1].transpose(2, 0, 1), kernel), atol=1e-4)  # fmt: skip
    np.testing.assert_array_equal(params["conv1"]["Conv_0"]["bias"], bias)
    kernel, bias = weights["inception_4b/5x5"]
    np.testing.assert_array_equal(params["4b"]["5x5"]["Conv_0"]["kernel"][1, 3, 5, 7], kernel[7, 5, 1, 3])  # fmt: skip
    np.testing.assert_array_equal(params["4b"]["5x5"]["Conv_0"]["bias"], bias)
    np.testing.assert_array_equal(params["classifier"]["kernel"], weights["loss3/classifier"][0].T)
    for head, loss in (("head_4a", "loss1"), ("head_4d", "loss2")):
        assert (head in params) == layout["heads"]
        if layout["heads"]:  # the fully connected layer reads (c, h, w) there, (h, w, c) here
            grid = rng.normal(size=(4, 4, 128)).astype(np.float32)
            theirs = weights[f"{loss}/fc"][0] @ grid.transpose(2, 0, 1).ravel()
            np.testing.assert_allclose(grid.ravel() @ params[head]["fc"]["kernel"], theirs, atol=1e-4)  # fmt: skip
            np.testing.assert_array_equal(params[head]["classifier"]["bias"], weights[f"{loss}/classifier"][1])  # fmt: skip


@pytest.mark.slow
def test_caffes_half_heads_are_not_taken_and_strangers_are_told(tmp_path, capfd) -> None:
    path = tmp_path / "net.caffemodel"
    caffemodel(path, heads=False)
    net = caffe.net_parameter().FromString(path.read_bytes())
    for name in ("loss1/conv", "extra/fc"):
        blob(net.layer.add(name=name).blobs, np.zeros(3), legacy=False, double=False)
    path.write_bytes(net.SerializeToString())
    result = convert(capfd, "caffe", path, tmp_path / "out")
    assert result["ignored"] == ["loss1/conv", "extra/fc"]
    assert result["missing"] == [
        "loss1/conv", "loss1/fc", "loss1/classifier", "loss2/conv", "loss2/fc", "loss2/classifier"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "heads"),
    [
        (("loss3/classifier_food",), False),
        (("fc_food",), False),
        (("loss1/classifier_food", "loss2/classifier_food", "loss3/classifier_food"), True),
        (("loss1/food", "loss2/classifier", "cls3"), True),
        (("cls1", "cls2", "cls3"), True),
        (("cls1", "loss2/food", "cls3"), True),
        (("loss1/classifier", "loss2/classifier", "food"), True),
    ],
)
def test_classifiers_that_were_renamed_for_fine_tuning(tmp_path, names, heads: bool) -> None:
    path = tmp_path / "food.caffemodel"
    usual = [f"loss{i}/classifier" for i in (1, 2, 3)][-len(names) :]
    renamed = {u: (n, 5) for u, n in zip(usual, names, strict=True)}
    drawn = caffemodel(path, heads=heads, renamed=renamed)
    weights = read("caffe", str(path))
    assert weights.knobs["model.classes"] == 5 and weights.knobs["model.heads"] is heads
    for layer, name in zip(["head_4a/classifier", "head_4d/classifier", "classifier"][-len(names) :], names, strict=True):  # fmt: skip
        assert weights.names[f"{layer}/kernel"] == f"{name}:0"
        np.testing.assert_array_equal(weights.arrays[f"{name}:1"], drawn[name][1])


@pytest.mark.slow
def test_a_renamed_classifier_beside_heads_of_other_classes(tmp_path, capfd) -> None:
    path = tmp_path / "food.caffemodel"
    caffemodel(path, heads=True, renamed={"loss3/classifier": ("loss3/classifier_food", 5)})
    result = convert(capfd, "caffe", path, tmp_path / "out")
    heads = [name for name in caffe_shapes(heads=True) if name.startswith(("loss1/", "loss2/"))]
    assert sorted(result["ignored"]) == sorted(heads) and result["missing"] == []
    assert result["parameters"] == 6_998_552 - 995 * 1025


@pytest.mark.parametrize(
    ("renamed", "more", "message"),
    [
        ({}, "loss3/classifier_food", "(loss3/classifier, loss3/classifier_food)"),
        ({"loss3/classifier": ("food", 5)}, "drink", "may be loss3/classifier (food, drink)"),
    ],
)
def test_layers_that_may_all_be_the_classifier(tmp_path, capfd, renamed, more: str, message: str) -> None:  # fmt: skip
    path = tmp_path / "food.caffemodel"
    caffemodel(path, heads=False, renamed=renamed)
    net = caffe.net_parameter().FromString(path.read_bytes())
    blob(net.layer.add(name=more).blobs, np.zeros((5, 1024)), legacy=False, double=False)
    path.write_bytes(net.SerializeToString())
    assert message in refused(capfd, tmp_path, "caffe", path)


@pytest.fixture(scope="module")
def bvlc(tmp_path_factory: pytest.TempPathFactory):
    """The real weights, converted; where there are none, tests that want them skip."""
    output = tmp_path_factory.mktemp("bvlc") / "out"

    def make(shared_data: pathlib.Path) -> pathlib.Path:
        if not output.exists():
            path = shared_data / "bvlc_googlenet" / "bvlc_googlenet.caffemodel"
            assert launch.main(command("caffe", path, output)) == 0
        return output

    return make


def link_photos(photos: list[pathlib.Path], root: pathlib.Path) -> None:
    for photo in photos:
        folder = root / "val" / photo.name.split("_")[0]
        folder.mkdir(parents=True)
        (folder / photo.name).symlink_to(photo)


def evaluate(capfd, workdir: pathlib.Path, photos: pathlib.Path) -> dict:
    args = ["eval", f"--workdir={workdir}", "--config.data.source=folder", f"--config.data.path={photos}",
            "--config.data.eval_split=val", "--config.run.eval_batch_size=40"]  # fmt: skip
    assert launch.main([*args, "--json"]) == 0
    return json.loads(capfd.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_bvlc_googlenet_gives_the_reference_logits(
    shared_data, bvlc, tmp_path, capfd, every: int
) -> None:
    """Photos through another framework; and `eval` on them, a few of the network's classes."""
    workdir = bvlc(shared_data)
    file = np.load(shared_data / "bvlc_googlenet" / "reference_logits.npz")
    reference = {name: file[name][::every] for name in file.files}
    photos = [shared_data / "imagenet-sample" / name for name in reference["files"]]
    config = read_config(str(workdir))
    views = cropping.Views((1,), 224, 256, config["data"]["resize"])
    batch = np.concatenate(
        [views.of(decoding.decode(p.read_bytes(), p.name, max_megapixels=99)) for p in photos]
    )
    got = logits(workdir, batch, heads=False)["main"]
    np.testing.assert_allclose(got, reference["logits"], atol=1e-3, rtol=0)

    link_photos(photos, tmp_path / "photos")
    result = evaluate(capfd, workdir, tmp_path / "photos")
    right = reference["logits"].argmax(1) == reference["labels"]
    assert result["count"] == len(photos)
    assert result["top1_error"] == pytest.approx(100 * (1 - right.mean()))


@pytest.mark.faults
def test_bvlc_googlenet_on_a_thousand_photos(shared_data, bvlc, tmp_path, capfd) -> None:
    """Of ImageNet's training set: top-1 78.8%, top-5 93.8%, no validation figure."""
    link_photos(sorted((shared_data / "imagenet-sample").glob("*.JPEG")), tmp_path / "photos")
    result = evaluate(capfd, bvlc(shared_data), tmp_path / "photos")
    assert result["count"] == 1000
    assert abs(result["top1_error"] - 21.2) <= 0.2 and abs(result["top5_error"] - 6.2) <= 0.2


# The ONNX zoo


def zoo_file(path: pathlib.Path, *, kind: str = "raw") -> dict[str, np.ndarray]:
    """Writes a .onnx of drawn numbers under the zoo's names; returns them."""
    model, drawn = onnx_zoo.model_proto()(producer_name="onnx-caffe2"), {}
    shape = model.graph.initializer.add(name="OC2_DUMMY_1", data_type=7, dims=[2])  # of a Reshape
    shape.raw_data = np.array([1, 1024]).tobytes()
    for layer, weights in caffe_shapes(heads=False).items():
        for name, dims in ((f"{layer}_w_0", weights), (f"{layer}_b_0", weights[:1])):
            array = drawn[name] = recorded.draw(name, tuple(dims))
            tensor = model.graph.initializer.add(name=name, data_type=1, dims=dims)
            if kind == "raw":
                tensor.raw_data = array.tobytes()
            elif kind == "float":
                tensor.float_data.extend(array.ravel().tolist())
            else:
                drawn[name] = array.astype(np.float16)
                tensor.data_type = 10
                tensor.int32_data.extend(drawn[name].ravel().view(np.uint16).tolist())
    path.write_bytes(model.SerializeToString())
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "float", "half"])
def test_the_zoos_networks_are_caffes(tmp_path, capfd, kind: str) -> None:
    drawn = zoo_file(tmp_path / "googlenet-12.onnx", kind=kind)
    result = convert(capfd, "onnx", tmp_path / "googlenet-12.onnx", tmp_path / "out")
    assert result["parameters"] == 6_998_552 and result["ignored"] == []
    trained = load_trained(str(tmp_path / "out"))
    params = trained.variables["params"]
    kernel = drawn["conv1/7x7_s2_w_0"][:, ::-1].transpose(2, 3, 1, 0)  # BGR
    np.testing.assert_array_equal(params["conv1"]["Conv_0"]["kernel"], kernel)
    np.testing.assert_array_equal(params["classifier"]["kernel"], drawn["loss3/classifier_w_0"].T)
    np.testing.assert_array_equal(params["classifier"]["bias"], drawn["loss3/classifier_b_0"])
    assert trained.config["data"]["normalization"] == "mean" and trained.classes == imagenet.CLASSES


# Files that are refused


def refused(capfd, tmp_path: pathlib.Path, source: str, path: pathlib.Path, *overrides: str, status: int = 1) -> str:  # fmt: skip
    """Returns the one line; nothing is left behind."""
    output = tmp_path / "out"
    line = fails(capfd, command(source, path, output, *overrides), status=status)
    assert not output.exists() and not (tmp_path / "out.incomplete").exists()
    return line


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """A whole file a format, without heads."""
    folder = tmp_path_factory.mktemp("files")
    caffemodel(folder / "net.caffemodel", heads=False)
    zoo_file(folder / "net.onnx")
    return {
        "onnx": folder / "net.onnx",
        "caffe": folder / "net.caffemodel",
        "torchvision": save(state_dict(heads=False), folder / "net.safetensors"),
    }


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("caffe", "x.caffemodel"), ("torchvision", "x.pth"), ("torchvision", "x.safetensors"),
        ("onnx", "x.onnx"),
    ],
)  # fmt: skip
def test_what_is_no_weight_file(tmp_path, capfd, monkeypatch, source: str, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / name
    assert "No such file" in refused(capfd, tmp_path, source, path)
    for content in (
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        bytes(range(256)),
        b"layer { name: 'x' }",
    ):
        path.write_bytes(content)
        line = refused(capfd, tmp_path, source, path)
        assert f"--input={path}" in line
        assert refused(capfd, tmp_path, source, pathlib.Path("~") / name) == line.replace(
            str(path), f"~/{name}"
        )
    path.unlink()
    path.mkdir()
    assert "--input=" in refused(capfd, tmp_path, source, path)


@pytest.mark.parametrize("source", ["caffe", "torchvision", "onnx"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file(tmp_path, capfd, files, source: str, share: float) -> None:
    content = files[source].read_bytes()
    path = tmp_path / files[source].name
    path.write_bytes(content[: int(share * len(content))])
    assert "damaged" in refused(capfd, tmp_path, source, path)


def test_a_flipped_byte_in_a_caffemodel_ends_in_one_line_or_in_arrays(tmp_path, rng) -> None:
    net = caffe.net_parameter()()
    layer = net.layers.add(name="conv1/7x7_s2")
    blob(layer.blobs, np.ones((2, 3, 1, 1)), legacy=True, double=False)
    blob(net.layer.add(name="x").blobs, np.ones(2), legacy=False, double=True)
    content = net.SerializeToString()
    path = tmp_path / "net.caffemodel"
    for position in range(len(content)):
        for flip in (0x01, 0x40, 0x80, 0xFF):
            flipped = bytearray(content)
            flipped[position] ^= flip
            path.write_bytes(flipped)
            with contextlib.suppress(UserError):
                arrays = read("caffe", str(path)).arrays
                assert all(array.dtype == np.float32 for array in arrays.values())


def without(arrays: dict, *names: str) -> dict:
    return {name: array for name, array in arrays.items() if name not in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: without(a, "fc.weight"), "lacks fc.weight: is it another network's?"),
        (lambda a: without(a, "inception4c.branch2.1.bn.running_var"), "lacks inception4c.branch2.1.bn.running_var:"),
        (lambda a: {"layer1.0.conv1.weight": a["conv1.conv.weight"]}, "and 282 more: is it another network's?"),
        (lambda a: {**a, "conv1.conv.weight": np.zeros((64, 3, 3, 3), np.float32)},
         "conv1.conv.weight has shape [64, 3, 3, 3], and the network [64, 3, 7, 7]"),
        (lambda a: {**a, "fc.weight": np.zeros((10, 1024), np.float32)},
         "fc.weight has shape [10, 1024], and the network [1000, 1024]"),
        (lambda a: {**a, "fc.bias": np.zeros((), np.float32)}, "fc.bias has shape []"),
        (lambda a: {**a, "conv2.conv.weight": np.full((64, 64, 1, 1), np.nan, np.float32)}, "conv2.conv.weight is not finite"),
        (lambda a: {**a, "conv2.conv.weight": np.zeros((64, 64, 1, 1), np.int8)}, "conv2.conv.weight is of int8"),
    ],
)  # fmt: skip
def test_another_network(tmp_path, capfd, change, message: str) -> None:
    path = save(change(state_dict(heads=False)), tmp_path / "net.safetensors")
    line = refused(capfd, tmp_path, "torchvision", path)
    assert message in line and f"--input={path}" in line


def test_another_network_of_caffes(tmp_path, capfd) -> None:
    net = caffe.net_parameter()()
    blob(net.layer.add(name="conv1").blobs, np.zeros((96, 3, 11, 11)), legacy=True, double=False)
    (path := tmp_path / "alexnet.caffemodel").write_bytes(net.SerializeToString())
    line = refused(capfd, tmp_path, "caffe", path)
    assert "lacks conv1/7x7_s2, conv2/3x3_reduce" in line and "and 53 more" in line


@pytest.mark.parametrize(
    ("override", "status", "message"),
    [
        ("--config.model.nrom=lrn", 2, "nearest is config.model.norm"),
        ("--config.model.norm=lrn", 1, "config.model.norm=lrn, but the weights in --input="),
        ("--config.model.biases=False", 1, "need True"),
        ("--config.model.pool4_px=3", 1, "need 2"),
        ("--config.model.padding=same", 1, "need symmetric"),
        ("--config.model.classes=10", 1, "need 1000"),
        ("--config.model.heads=True", 1, "need False"),
    ],
)
def test_knobs_that_the_weights_do_not_fit(
    tmp_path, capfd, files, override: str, status: int, message: str
) -> None:
    line = refused(capfd, tmp_path, "torchvision", files["torchvision"], override, status=status)
    assert message in line


@pytest.mark.slow
def test_the_output_must_be_new_and_writable(tmp_path, capfd, files) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("mine")
    line = fails(capfd, command("caffe", files["caffe"], tmp_path / "there"), status=1)
    assert "is not empty: choose a new folder" in line
    assert [p.name for p in tmp_path.rglob("*")] == ["there", "config.json"]
    line = fails(capfd, command("caffe", files["caffe"], tmp_path / "there" / "config.json" / "x"), status=1)  # fmt: skip
    assert "cannot be written" in line
    assert (tmp_path / "there" / "config.json").read_text() == "mine"
    args = ["convert", "--source=caffe", f"--input={files['caffe']}", "--output=gs://bucket/x"]
    assert "write a local folder" in fails(capfd, args, status=1)
    assert not pathlib.Path("gs:").exists()


def test_a_full_disk_leaves_nothing(tmp_path, capfd, files, monkeypatch) -> None:
    small = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    assert "MB are free" in refused(capfd, tmp_path, "caffe", files["caffe"])


def test_a_pickle_with_code_is_refused_by_name(tmp_path, capfd) -> None:
    """tests/test_torch_file.py has more of them."""
    path, touched = tmp_path / "googlenet.pth", tmp_path / "touched"
    path.write_bytes(pickle.dumps(Call(f"touch {touched}")))
    assert f"--input={path} names posix.system" in refused(capfd, tmp_path, "torchvision", path)
    assert not touched.exists()
    pickle.loads(path.read_bytes())
    assert touched.exists()


class Call:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_wrong_flags_of_the_command_line(tmp_path) -> None:
    for args in (["--source=tensorflow", "--input=x", "--output=y"], ["--source=caffe"]):
        done = process("convert", *args)
        assert done.returncode == 2 and "Traceback" not in done.stderr
