"""Reads PyTorch's files of tensors without PyTorch, and without running code from them.

The files are pickles, and a pickle may call any function. This reader allows the few harmless
functions that a state_dict needs, replaces what training scripts save beside it by objects that do
nothing, and stops at any other name. tinygrad's torch_load does the same job, but it needs a C
compiler and allows every name of NumPy, some of which run code.
"""

import collections
import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from inception import UserError

MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER: the older format, of one stream
DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Tensor(NamedTuple):
    """A tensor before its storage is read: in the older format the numbers come last."""

    storage: Any  # ('storage', type, key, device, elements), and in the older format a view
    offset: Any  # offset and strides count elements
    shape: Any
    strides: Any


class _Inert:
    """Stands for any object that is no tensor: it takes what a pickle gives it, and drops it."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def _drop(self, *_: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _drop


INERT = {  # module: names that checkpoints of training scripts contain beside the state_dict
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "collections": "Counter defaultdict deque",
    "builtins": "set frozenset slice range complex bytearray",
    "__builtin__": "set frozenset slice xrange complex bytearray",
    "_codecs": "encode",
    "datetime": "date datetime timedelta",
    "pathlib": "Path PosixPath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePosixPath PureWindowsPath WindowsPath",
    "numpy": "dtype ndarray float32 float64 int32 int64 bool_",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
    "torch": "device Size Tensor float16 float32 float64 bfloat16 int32 int64 uint8 bool",
    "torch.torch_version": "TorchVersion",
    "lightning_fabric.utilities.data": "AttributeDict",
    "lightning.fabric.utilities.data": "AttributeDict",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    "yacs.config": "CfgNode",
    "easydict": "EasyDict",
    "ml_collections.config_dict.config_dict": "ConfigDict",
}
NAMES = {  # all names that a pickle may use; a storage is a string, which cannot be called
    **{(module, name): _Inert for module, names in INERT.items() for name in names.split()},
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): lambda *args: _Tensor(*args),
    # the other arguments: requires_grad, hooks, metadata
    ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _Tensor(*args[:4]),
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    **{("torch", storage): storage for storage in DTYPES},
}


class _Unpickler(pickle.Unpickler):
    """Its `kinds` are the types of the storages, by key, that the pickle has named."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.kinds: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise UserError(
                f"names {module}.{name}, which is no part of a state_dict of tensors and may run "
                "any code: refused. Save model.state_dict(), or take the published file"
            )
        return NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        self.kinds[pid[2]] = pid[1]
        return pid


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, _Tensor]]:
    """The tensors in nested dicts, by their keys joined with dots."""
    for key, value in content.items():
        if isinstance(value, _Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{key}.")


def _array(tensor: _Tensor, storages: dict[str, bytes]) -> np.ndarray:
    """A view into the storage; raises ValueError if the tensor would reach beyond it."""
    _, kind, key, _, elements, *view = tensor.storage
    if any(view):  # PyTorch before 0.4
        raise ValueError("a storage that is part of another")
    flat = np.frombuffer(storages[key], DTYPES[kind], elements)
    offset, shape, strides = tensor.offset, tuple(tensor.shape), tuple(tensor.strides)
    numbers = (offset, *shape, *strides)
    if not all(isinstance(n, int) and n >= 0 for n in numbers) or len(shape) != len(strides):
        raise ValueError(f"a tensor of shape {shape} with strides {strides} at {offset}")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(flat):
        raise ValueError(f"a tensor ends at {last} of {len(flat)} elements")
    return np.lib.stride_tricks.as_strided(
        flat[offset:], shape, [stride * flat.itemsize for stride in strides], writeable=False
    )


def _read_zip(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        (index,) = (name for name in names if name.split("/")[1:] == ["data.pkl"])
        content = _Unpickler(io.BytesIO(archive.read(index))).load()
        folder = index.removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("byte order big")
        inside = f"{folder}data/"
        keys = [name.removeprefix(inside) for name in names if name.startswith(inside)]
        return content, {key: archive.read(inside + key) for key in keys}


def _read_stream(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    """Magic number, version, machine, content, keys; then each storage: int64 count, numbers."""
    parts = [_Unpickler(file) for _ in range(5)]
    magic, _, machine, content, keys = (part.load() for part in parts)
    if magic != MAGIC:
        raise ValueError("no magic number")
    if not machine["little_endian"]:
        raise ValueError("byte order big")
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = file.read(count * np.dtype(DTYPES[parts[3].kinds[key]]).itemsize)
    return content, storages


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a state_dict by name, from either format of torch.save.

    Of a dict with state_dicts in it the names are the keys joined with dots, as in
    'model.conv1.conv.weight'. What is no tensor is dropped.

    Returns:
        Read-only views of the dtypes and shapes in the file, bfloat16 as JAX's.

    Raises:
        UserError: a name that may run code, or no tensor; its text continues the file's name.
        Exception: of any kind, if the file is damaged or no state_dict.
    """
    with open(path, "rb") as file:
        is_zip = zipfile.is_zipfile(file)
        file.seek(0)
        content, storages = (_read_zip if is_zip else _read_stream)(file)
    tensors = dict(_tensors(content)) if isinstance(content, Mapping) else {}
    if not tensors:
        raise UserError("is no state_dict: it holds no tensors. Save model.state_dict()")
    return {name: _array(tensor, storages) for name, tensor in tensors.items()}
