"""PyTorch's files without PyTorch: every kind of tensor, damage, and code that must not run."""

import argparse
import collections
import contextlib
import datetime
import io
import os
import pathlib
import pickle
import sys
import types
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from inception import UserError
from inception.formats import convert, torch_file
from tests import record_torchvision as recorded


def read(path: str) -> dict[str, np.ndarray]:
    return convert.read("torchvision", path).arrays


@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_every_kind_of_tensor_in_both_formats_of_pytorch(kind: str) -> None:
    got = read(str(recorded.RECORDED / f"{kind}.pth"))
    plain = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = {
        "weight": np.ones(3, np.float32),
        "num_batches_tracked": np.asarray(0, np.int64),
        "plain": plain,
        "part of plain": plain[1, 1:],
        "transposed": plain.transpose(2, 1, 0),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.array([1.5, -2.5], np.float32),
        "half": np.array([0.5, 65504], np.float16),
        "bfloat16": np.array([1, 3.140625], "bfloat16"),
        "double": np.array([1 / 3]),
        "bool": np.array([True, False]),
    }
    assert got.keys() == expected.keys() | {"bias", "running_mean", "running_var"}
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_a_truncated_or_flipped_file_of_pytorch(tmp_path, kind: str) -> None:
    """At every length; a flipped byte of a zip is found, of the older format it may be a weight."""
    content = (recorded.RECORDED / f"{kind}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    whole = read(str(recorded.RECORDED / f"{kind}.pth"))
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(UserError) as caught:
            read(str(path))
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    for position in range(0, len(content), 5):
        flipped = bytearray(content)
        flipped[position] ^= 0x41
        path.write_bytes(flipped)
        with contextlib.suppress(UserError):
            got = read(str(path))
            assert kind == "stream" or all(np.array_equal(got[k], v) for k, v in whole.items())


# Checkpoints as training scripts save them


class _Stored(NamedTuple):
    """What stands for a storage while a test pickles."""

    array: np.ndarray


class _Saved:
    """What stands for a tensor, contiguous."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self):
        strides = tuple(s // self.array.itemsize for s in self.array.strides)
        arguments = (_Stored(self.array), 0, self.array.shape, strides, False, None)
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


@pytest.fixture
def save(monkeypatch):
    """torch.save(content, path), for a content of float32 arrays and anything that pickles."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def _rebuild_tensor_v2():
        """Named by the pickle alone."""

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
        "torch._utils",
        "_rebuild_tensor_v2",
    )
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def to_saved(content):
        if isinstance(content, np.ndarray):
            return _Saved(content)
        return {k: to_saved(v) for k, v in content.items()} if type(content) is dict else content

    def save(content, path: pathlib.Path) -> str:
        stored: list[np.ndarray] = []

        class Pickler(pickle.Pickler):
            def persistent_id(self, thing):
                if isinstance(thing, _Stored):
                    stored.append(thing.array)
                    return (
                        "storage",
                        torch.FloatStorage,
                        str(len(stored) - 1),
                        "cpu",
                        thing.array.size,
                    )

        buffer = io.BytesIO()
        Pickler(buffer, 2).dump(to_saved(content))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", buffer.getvalue())
            for key, array in enumerate(stored):
                archive.writestr(f"net/data/{key}", array.tobytes())
        return str(path)

    return save


STATE = {
    "conv1.conv.weight": np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3),
    "fc.weight": np.ones((2, 3), np.float32),
}
BESIDE = {
    "epoch": 3,
    "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("runs")),
    "optimizer": {"state": {0: {"momentum_buffer": np.zeros(9, np.float32)}}, "param_groups": [{}]},
    "lr_scheduler": {"milestones": collections.Counter({30: 1}), "last": np.float64(0.1)},
    "best": [np.arange(3), np.dtype("f4"), {1, 2}, datetime.timedelta(1), slice(1), b"bytes"],
}  # fmt: skip


def prefixed(prefix: str) -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": array for name, array in STATE.items()}


@pytest.mark.parametrize(
    ("content", "outside"),
    [
        (STATE, set()),
        (prefixed("module."), set()),
        (prefixed("_orig_mod.module."), set()),
        ({"n_averaged": np.ones(1, np.float32), **prefixed("module.")}, {"n_averaged"}),
        ({"state_dict": STATE, **BESIDE}, {"optimizer"}),
        ({**BESIDE, "model": prefixed("_orig_mod.")}, {"optimizer"}),
        ({"model_state_dict": STATE}, set()),
        ({"model_ema": prefixed("module."), "epoch": 1}, set()),
    ],
)
def test_a_state_is_found_in_what_is_around_it(save, tmp_path, content, outside: set) -> None:
    got = read(save(content, tmp_path / "checkpoint.pth"))
    assert got.keys() == STATE.keys() | outside
    for name, array in STATE.items():
        np.testing.assert_array_equal(got[name], array)


def test_a_state_in_safetensors_may_be_bfloat16_and_have_a_prefix(tmp_path) -> None:
    half = {name: array.astype("bfloat16") for name, array in prefixed("module.").items()}
    save_file(half, tmp_path / "net.safetensors")
    got = read(str(tmp_path / "net.safetensors"))
    assert got.keys() == STATE.keys() and got["fc.weight"].dtype == "bfloat16"


def test_objects_beside_a_state_are_not_made(save, tmp_path, monkeypatch) -> None:
    path = save({"model": STATE, **BESIDE}, tmp_path / "checkpoint.pth")

    def made(*_, **__):
        raise AssertionError("an object of the file was made")

    for owner, name in (
        (argparse, "Namespace"),
        (collections, "Counter"),
        (datetime, "timedelta"),
        (np, "dtype"),
    ):
        monkeypatch.setattr(owner, name, made)  # pickle would call it
    with pytest.raises(AssertionError, match="was made"):
        pickle.loads(_named("argparse", "Namespace")[:-1] + b")R.")
    with open(path, "rb") as file:
        content, _ = torch_file._read_zip(file)
    assert type(content["args"]) is type(content["lr_scheduler"]["milestones"]) is torch_file._Inert
    assert vars(content["args"]) == {}


def test_inert_objects_take_whatever_a_pickle_does_to_them() -> None:
    """Attributes, items, elements, keywords, calls of calls: all are dropped, and no class changes."""
    namespace = b"\x80\x04\x8c\x08argparse\x8c\x09Namespace\x93"
    for change in (
        b")R",
        b")\x81",
        b")}\x92",
        b")R}b",
        b")RK\x01K\x02s",
        b")R(K\x01e",
        b")RK\x01a",
        b"}b",
    ):
        got = torch_file._Unpickler(io.BytesIO(namespace + change + b".")).load()
        assert got is torch_file._Inert or (type(got) is torch_file._Inert and vars(got) == {})
    with pytest.raises(TypeError):  # what an inert object is, cannot be called
        torch_file._Unpickler(io.BytesIO(namespace + b")R)R.")).load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "args": argparse.Namespace(state=1)}, "holds no tensors. Save model.state_dict()"),
        (3, "holds no tensors"),
        (argparse.Namespace(weight=np.ones(3)), "holds no tensors"),
        ({"model": STATE, "model_ema": prefixed("module.")}, "holds 2 networks (model, model_ema.module): save one"),
        (STATE | prefixed("teacher."), "holds 2 networks (the file itself, teacher)"),
        ({**STATE, "fc.0.weight": np.ones(3, np.float32)}, "classifier of several layers (fc, fc.0): only one fits"),
    ],
)  # fmt: skip
def test_a_file_without_one_network_is_refused(save, tmp_path, content, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(save(content, tmp_path / "checkpoint.pth"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_classifier_after_a_dropout(save, tmp_path) -> None:
    last = {"fc.1.weight": np.ones((2, 3), np.float32), "fc.1.bias": np.ones(2, np.float32)}
    path = save({"conv1.conv.weight": STATE["conv1.conv.weight"], **last}, tmp_path / "net.pth")
    weights = convert.read("torchvision", path)
    assert weights.names["classifier/kernel"] == "fc.1.weight"
    assert weights.knobs["model.classes"] == 2


# Files that would run code


class _Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def _named(module: str, name: str, *, proto: int = 4) -> bytes:
    """A pickle that names something; nothing of it is imported here."""
    if proto < 4:
        return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."
    texts = b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name))
    return b"\x80\x04" + texts + b"\x93."


def payloads(touched: pathlib.Path) -> list[tuple[str, bytes]]:
    """(what must be named, a pickle that would write the file `touched`)."""
    code = f"open({str(touched)!r}, 'w')"
    tensors = collections.OrderedDict(a=_Call(exec, code))
    return [
        (name, pickle.dumps(thing, protocol))
        for protocol in (0, 2, 4, 5)
        for name, thing in (
            ("posix.system", _Call(os.system, f"touch {touched}")),
            ("exec", _Call(exec, code)),
            ("exec", tensors),
            ("eval", {"state_dict": [(_Call(eval, code),)]}),
            ("getattr", _Call(getattr, "text", "upper")),
        )
    ]


@pytest.mark.parametrize("wrap", ["plain", "zip", "stream"])
def test_code_in_a_file_is_named_and_does_not_run(tmp_path, wrap: str) -> None:
    touched = tmp_path / "touched"
    cases = payloads(touched)
    for proto in (2, 4):
        for module, name in (("builtins", "exec"), ("collections", "_sys.modules"), ("torch.hub", "load"),
                             ("numpy.testing._private.utils", "runstring"), ("torch", "FloatStorage.__class__"),
                             ("torchvision.models.googlenet", "GoogLeNet")):  # fmt: skip
            cases.append((f"{module}.{name}", _named(module, name, proto=proto)))
    path = tmp_path / "googlenet.pth"
    for name, content in cases:
        if wrap == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("googlenet/data.pkl", content)
                archive.writestr("googlenet/version", "3\n")
        else:
            start = (torch_file.MAGIC, 1001, {"little_endian": True}) if wrap == "stream" else ()
            path.write_bytes(b"".join(pickle.dumps(part, 2) for part in start) + content)
        with pytest.raises(UserError) as caught:
            read(str(path))
        line = str(caught.value)
        assert f"{name}, which is no part of a state_dict" in line and "refused" in line, line
        assert not touched.exists()


def test_the_code_in_these_files_does_run_in_pickle(tmp_path) -> None:
    """Or the test above would show nothing."""
    for _, content in payloads(tmp_path / "touched")[:4]:
        pickle.load(io.BytesIO(content))
        assert (tmp_path / "touched").exists()
        (tmp_path / "touched").unlink()


@pytest.mark.parametrize("tensor", [(20, (3,), (1,)), (0, (5, 5), (5, 1)), (0, (2,), (-1,)), (-1, (2,), (1,)), (0, (2,), (1, 1))])  # fmt: skip
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, tensor: tuple) -> None:
    """Strides in a file must not read memory that is not the file's."""
    storage = ("storage", "FloatStorage", "0", "cpu", 20)
    with pytest.raises(ValueError, match="tensor"):
        torch_file._array(torch_file._Tensor(storage, *tensor), {"0": bytes(80)})
