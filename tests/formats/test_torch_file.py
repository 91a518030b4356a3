"""PyTorch's files without PyTorch: every kind of tensor, damage, and code that must not run."""

import collections
import contextlib
import io
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

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
