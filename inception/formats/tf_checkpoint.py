"""Reads TensorFlow's checkpoints without TensorFlow: the one file of old, and the bundle.

Both have a table of sorted keys and values, as LevelDB's: blocks with a trailer of 5 bytes, an
index of the blocks, a footer of 48 bytes. In the old format (V1) a value holds a tensor. In the
bundle (V2) PREFIX.index is the table, and its values say where PREFIX.data-* has the tensors.

NOTE: the checksums are not verified: crc32c in Python takes minutes.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from inception import UserError
from inception.formats import protobuf

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")  # the last bytes of a table
FOOTER = 48
GZIP = b"\x1f\x8b"  # the first bytes of a .tar.gz, as the published file is in
SNAPPY = 1  # a block's type; 0: not compressed
DTYPES = {  # by TensorFlow's DataType
    1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, 9: np.int64,
    10: np.bool_, 14: jnp.bfloat16, 19: np.float16,
}  # fmt: skip

# The parts of tensor_shape.proto, tensor_slice.proto, tensor.proto, saved_tensor_slice.proto and
# tensor_bundle.proto that these files need.
MESSAGES = {
    "Dim": "optional int64 size = 1",
    "TensorShapeProto": "repeated Dim dim = 2",
    "Extent": "optional int64 start = 1; optional int64 length = 2",
    "TensorSliceProto": "repeated Extent extent = 1",
    "TensorProto": "repeated float float_val = 5; repeated double double_val = 6;"
    "repeated int32 int_val = 7; repeated int64 int64_val = 10; repeated bool bool_val = 11;"
    "repeated int32 half_val = 13",
    "SavedSliceMeta": "optional string name = 1; optional TensorShapeProto shape = 2;"
    "optional int32 type = 3; repeated TensorSliceProto slice = 4",
    "SavedTensorSliceMeta": "repeated SavedSliceMeta tensor = 1",
    "SavedSlice": "optional string name = 1; optional TensorProto data = 3",
    "SavedTensorSlices": "optional SavedTensorSliceMeta meta = 1; optional SavedSlice data = 2",
    "BundleHeaderProto": "optional int32 num_shards = 1; optional int32 endianness = 2",
    "BundleEntryProto": "optional int32 dtype = 1; optional TensorShapeProto shape = 2;"
    "optional int32 shard_id = 3; optional int64 offset = 4; optional int64 size = 5;"
    "repeated TensorSliceProto slices = 7",
}


def message(name: str) -> Any:
    """The protobuf class of one of MESSAGES."""
    return protobuf.message_class(MESSAGES, name)


def _varint(buffer: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and the position after it."""
    number = shift = 0
    while True:
        byte = buffer[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at


def _unsnappy(block: memoryview) -> memoryview:
    """The content of a block that Snappy compressed; ValueError if it is damaged."""
    size, at = _varint(block, 0)
    out = bytearray()
    while at < len(block):
        tag, kind = block[at] >> 2, block[at] & 3
        at += 1
        if kind == 0:  # these bytes
            if tag >= 60:
                more = tag - 59
                tag, at = int.from_bytes(block[at : at + more], "little"), at + more
            out += block[at : at + tag + 1]
            at += tag + 1
            continue
        # bytes from before, which may run into the copy itself
        length, wide = (tag & 7) + 4 if kind == 1 else tag + 1, {1: 1, 2: 2, 3: 4}[kind]
        back, at = int.from_bytes(block[at : at + wide], "little"), at + wide
        back |= (tag >> 3) << 8 if kind == 1 else 0
        if not 0 < back <= len(out):
            raise ValueError("a copy from before the start")
        piece = out[len(out) - back : len(out) - back + length]
        out += (piece * (length // back + 1))[:length]
    if len(out) != size:
        raise ValueError(f"{len(out)} of {size} bytes")
    return memoryview(out)


def _block(file: memoryview, handle: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The keys and values of the block at `handle`, its position and size."""
    start, after = _varint(handle, 0)
    size, _ = _varint(handle, after)
    block, kind = file[start : start + size], file[start + size]
    if kind:
        if kind != SNAPPY:
            raise ValueError(f"a block of type {kind}")
        block = _unsnappy(block)
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = len(block) - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + bytes(block[at : at + unshared])
        at += unshared + length
        if at > end:
            raise ValueError("an entry ends beyond its block")
        yield key, block[at - length : at]


def table(file: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The keys and values of a table; ValueError or IndexError if it is damaged."""
    view = memoryview(file)
    if view[-8:] != MAGIC:
        raise ValueError("no table of TensorFlow")
    footer = view[-FOOTER:]
    _, at = _varint(footer, 0)  # the handle of an index of filters, unused
    _, at = _varint(footer, at)
    for _, handle in _block(view, footer[at:]):
        yield from _block(view, handle)


def _shape(proto: Any) -> list[int]:
    return [dim.size for dim in proto.dim]


def _split(name: str) -> UserError:
    return UserError(f"keeps {name} in several parts: save it without a partitioner")


def _read_v1(content: bytes) -> dict[str, np.ndarray]:
    if content.startswith(GZIP):
        raise UserError("is an archive: unpack it (tar xzf FILE), and take the .ckpt in it")
    slices = message("SavedTensorSlices")
    entries = (slices.FromString(value) for _, value in table(content))
    about = {tensor.name: tensor for tensor in next(entries).meta.tensor}
    arrays = {}
    for entry in entries:
        name, data = entry.data.name, entry.data.data
        tensor = about[name]
        if any(extent.HasField("length") for part in tensor.slice for extent in part.extent):
            raise _split(name)
        if tensor.type not in DTYPES:  # strings
            continue
        dtype = np.dtype(DTYPES[tensor.type])
        if data.half_val:
            values = np.asarray(data.half_val, np.uint16).view(dtype)
        else:
            fields = (data.float_val, data.double_val, data.int_val, data.int64_val, data.bool_val)
            values = np.asarray(next(filter(len, fields), []), dtype)
        arrays[name] = values.reshape(_shape(tensor.shape))
    if (
        missing := about.keys()
        - arrays.keys()
        - {n for n, t in about.items() if t.type not in DTYPES}
    ):
        raise ValueError(f"no {min(missing)}")
    return arrays


def _read_v2(prefix: str, index: bytes) -> dict[str, np.ndarray]:
    entries = table(index)
    header = message("BundleHeaderProto").FromString(next(entries)[1])
    if header.endianness:
        raise ValueError("byte order big")
    entry, arrays = message("BundleEntryProto"), {}
    for key, value in entries:
        if key[:1] == b"\0":  # a part of a tensor, whose own entry comes later
            continue
        tensor, name = entry.FromString(value), key.decode()
        if tensor.slices:
            raise _split(name)
        if tensor.dtype not in DTYPES:
            continue
        part = pathlib.Path(f"{prefix}.data-{tensor.shard_id:05d}-of-{header.num_shards:05d}")
        if not part.exists():
            raise UserError(f"lacks its file {part.name}: keep it beside the .index file")
        with part.open("rb") as file:
            file.seek(tensor.offset)
            content = file.read(tensor.size)
        arrays[name] = np.frombuffer(content, DTYPES[tensor.dtype]).reshape(_shape(tensor.shape))
    return arrays


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, in TensorFlow's layout; strings are left out.

    Args:
        path: the one file of the old format; of a bundle its prefix, or any file of it.

    Raises:
        UserError: a tensor in several parts; its text continues the file's name.
        Exception: of any kind, if a file is missing, damaged, or no checkpoint.
    """
    file = pathlib.Path(path)
    of_bundle = file.suffix in (".index", ".meta") or file.suffix.startswith(".data-")
    prefix = file.with_suffix("") if of_bundle else file
    if prefix.is_file():
        return _read_v1(prefix.read_bytes())
    return _read_v2(str(prefix), pathlib.Path(f"{prefix}.index").read_bytes())
