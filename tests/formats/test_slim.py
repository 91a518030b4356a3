"""TF-slim's checkpoints without TensorFlow: files of both formats, damage, and SAME padding.

test_slim_tensorflow.py has what needs TensorFlow.
"""

import contextlib
import functools
import gzip
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from inception import UserError
from inception.data import imagenet
from inception.formats import slim, tf_checkpoint, torchvision
from inception.formats.convert import read
from inception.model import Conv
from inception.runtime.weights import load_trained
from tests.formats.test_pretrained import SHAPES, convert, refused

# Files in the published layouts


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A variable of slim's network, in TensorFlow's layout."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("moving_variance"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    deviation = (2 / np.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.1
    return rng.normal(0, deviation, shape).astype(np.float32)


def variables(classes: int = 1001) -> dict[str, np.ndarray]:
    """Slim's network of drawn numbers."""
    drawn = {"global_step": np.asarray(7, np.int64)}
    for layer, name in slim.LAYERS.items():
        if layer == "classifier":
            drawn[f"{name}/weights"] = draw(name, (1, 1, 1024, classes))
            drawn[f"{name}/biases"] = draw(f"{name}/biases", (classes,))
            continue
        out, into, height, width = SHAPES[f"{torchvision.LAYERS[layer]}.conv.weight"]
        drawn[f"{name}/weights"] = draw(name, (height, width, into, out))
        for part in ("beta", "moving_mean", "moving_variance"):
            drawn[f"{name}/BatchNorm/{part}"] = draw(f"{name}/{part}", (out,))
    return drawn


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


def masked_crc32c(content: bytes) -> bytes:
    """As tables have it; TensorFlow verifies it."""
    crc, table = 0xFFFFFFFF, _crc_table()
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def snappy(content: bytes) -> bytes:
    """Compresses runs of four bytes."""
    out, at = varint(len(content)), 0
    while at < len(content):
        run = 0
        while run < 64 and at >= 4 and content[at + run : at + run + 1] == content[at + run - 4 : at + run - 3] != b"":  # fmt: skip
            run += 1
        if run >= 4:
            out += bytes([(run - 1) << 2 | 2, 4, 0])  # a copy from 4 before
            at += run
        else:
            out += b"\x00" + content[at : at + 1]
            at += 1
    return out


def table(entries: dict[bytes, bytes], *, compress: bool = False, checksums: bool = False) -> bytes:
    """A table of three entries a block."""
    out, handles = b"", {}

    def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
        nonlocal out
        content, last = b"", b""
        for key, value in pairs:
            shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))  # fmt: skip
            content += varint(shared) + varint(len(key) - shared) + varint(len(value))
            content, last = content + key[shared:] + value, key
        content += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")  # one restart, at 0
        stored = (snappy(content) if compress else content) + bytes([compress])
        handle = varint(len(out)) + varint(len(stored) - 1)
        out += stored + (masked_crc32c(stored) if checksums else bytes(4))
        return handle

    pairs = sorted(entries.items())
    for i in range(0, len(pairs), 3):
        handles[pairs[i : i + 3][-1][0]] = block(pairs[i : i + 3])
    footer = block([]) + block(sorted(handles.items()))
    return out + footer.ljust(40, b"\0") + tf_checkpoint.MAGIC


TYPES = {np.dtype(dtype): number for number, dtype in tf_checkpoint.DTYPES.items()}


def v1(path: pathlib.Path, arrays: dict[str, np.ndarray], **options: bool) -> pathlib.Path:
    """Writes the format of one file."""
    message = tf_checkpoint.message("SavedTensorSlices")
    about, entries = message(), {}
    for name, array in arrays.items():
        meta = about.meta.tensor.add(name=name, type=TYPES[array.dtype])
        meta.shape.SetInParent()
        part = meta.slice.add()
        for size in array.shape:
            meta.shape.dim.add(size=size)
            part.extent.add()
        entry = message()
        entry.data.name = name
        field = {"float32": "float_val", "int64": "int64_val", "float64": "double_val"}[array.dtype.name]  # fmt: skip
        getattr(entry.data.data, field).extend(array.ravel().tolist())
        axes = b"\1" + bytes([array.ndim]) if array.ndim else b"\0"
        key = b"\0" + name.encode() + b"\0\1" + axes + b"\x80\x7f" * array.ndim
        entries[key] = entry.SerializeToString()
    path.write_bytes(table({b"": about.SerializeToString(), **entries}, **options))
    return path


def v2(prefix: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes the bundle."""
    entries = {b"": tf_checkpoint.message("BundleHeaderProto")(num_shards=1).SerializeToString()}
    data = b""
    for name, array in sorted(arrays.items()):
        entry = tf_checkpoint.message("BundleEntryProto")(
            dtype=TYPES[array.dtype], offset=len(data), size=array.nbytes
        )
        entry.shape.SetInParent()
        for size in array.shape:
            entry.shape.dim.add(size=size)
        data, entries[name.encode()] = data + array.tobytes(), entry.SerializeToString()
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries))
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)
    return prefix


@pytest.mark.slow
@pytest.mark.parametrize(("write", "classes"), [(v1, 1001), (v2, 5)])
def test_both_formats_of_slims_network(tmp_path, capfd, write, classes: int) -> None:
    arrays = variables(classes)
    path = write(tmp_path / "inception_v1.ckpt", arrays)
    result = convert(capfd, "slim", path, tmp_path / "out")
    assert result == {
        "parameters": 6_624_904 + (classes - 1000) * 1025,
        "ignored": ["global_step"],
        "missing": [],
    }
    trained = load_trained(str(tmp_path / "out"))
    params, statistics = trained.variables["params"], trained.variables["batch_stats"]
    for ours, theirs in (("3a", "3b"), ("4e", "4f"), ("5a", "5b")):
        name = f"InceptionV1/Mixed_{theirs}/Branch_2/Conv2d_0{'a' if ours == '5a' else 'b'}_3x3"
        layer = params[ours]["5x5"]
        np.testing.assert_array_equal(layer["Conv_0"]["kernel"], arrays[f"{name}/weights"])
        np.testing.assert_array_equal(layer["BatchNorm_0"]["scale"], 1)
        np.testing.assert_array_equal(layer["BatchNorm_0"]["bias"], arrays[f"{name}/BatchNorm/beta"])  # fmt: skip
        np.testing.assert_array_equal(statistics[ours]["5x5"]["BatchNorm_0"]["var"], arrays[f"{name}/BatchNorm/moving_variance"])  # fmt: skip
    logits = arrays["InceptionV1/Logits/Conv2d_0c_1x1/weights"][0, 0]
    np.testing.assert_array_equal(params["classifier"]["kernel"], logits)
    known = ("background", *imagenet.CLASSES) if classes == 1001 else tuple(f"class {i}" for i in range(5))  # fmt: skip
    assert trained.classes == known
    config = trained.config
    assert config["model"]["padding"] == "same" and config["data"]["resize"] == "central_crop"


def test_any_file_of_a_bundle_names_it_and_a_lost_one_is_named(tmp_path) -> None:
    arrays = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "a/c": np.array(1 / 3)}
    prefix = v2(tmp_path / "model.ckpt-12", arrays)
    data = tmp_path / "model.ckpt-12.data-00000-of-00001"
    for path in (prefix, f"{prefix}.index", f"{prefix}.meta", data):
        got = tf_checkpoint.read(str(path))
        for name, array in arrays.items():
            np.testing.assert_array_equal(got[name], array, strict=True)
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"lacks its file model\.ckpt-12\.data-00000-of-00001"):
        read("slim", str(prefix))


def test_a_scale_in_the_file_is_taken(tmp_path) -> None:
    name = "InceptionV1/Conv2d_1a_7x7/BatchNorm"
    arrays = {f"{name}/{part}": np.full(2, value, np.float32) for part, value in (("beta", 0), ("gamma", 3))}  # fmt: skip
    got = read("slim", str(v1(tmp_path / "x.ckpt", arrays))).arrays
    np.testing.assert_array_equal(got[f"{name}/gamma"], 3)


# Snappy's compression, of blocks


@pytest.mark.parametrize(
    ("compressed", "content"),
    [
        (b"\x03\x08abc", b"abc"),
        (b"\x0a\x08abc\x0d\x03", b"abcabcabca"),  # kind 1: 7 bytes from 3 before, over itself
        (b"\x07\x08abc\x0e\x02\x00", b"abcbcbc"),  # kind 2, 16 bits
        (b"\x07\x08abc\x0f\x01\x00\x00\x00", b"abccccc"),  # kind 3, 32 bits
        (b"\xc8\x01\xf0\xc7" + bytes(range(200)), bytes(range(200))),  # a length of one byte
        (b"\xac\x02\xf4\x2b\x01" + bytes(300), bytes(300)),  # and of two
        (b"\x89\x02\xf4\x03\x01" + bytes(range(256)) + b"abcd\x25\x03", bytes(range(256)) + b"abcd" + bytes([1, 2, 3, 4, 5])),
    ],
)  # fmt: skip
def test_snappys_elements(compressed: bytes, content: bytes) -> None:
    assert bytes(tf_checkpoint._unsnappy(memoryview(compressed))) == content


def test_a_compressed_table(tmp_path) -> None:
    arrays = {"zeros": np.zeros(5000, np.float32), "rest": draw("rest", (9, 3))}
    path = v1(tmp_path / "x.ckpt", arrays, compress=True)
    assert path.stat().st_size < 3000
    got = tf_checkpoint.read(str(path))
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array, strict=True)


# Damage


@pytest.mark.slow
@pytest.mark.parametrize("compress", [False, True])
def test_a_truncated_or_flipped_table_ends_in_one_line_or_in_arrays(tmp_path, compress: bool) -> None:  # fmt: skip
    arrays = {f"layer/{i}": np.arange(i + 1.0) for i in range(4)}
    content = v1(tmp_path / "x.ckpt", arrays, compress=compress).read_bytes()
    path = tmp_path / "y.ckpt"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="damaged, or no checkpoint of TensorFlow"):
            read("slim", str(path))
    for position in range(len(content)):
        for flip in (0x01, 0x80):
            flipped = bytearray(content)
            flipped[position] ^= flip
            path.write_bytes(flipped)
            with contextlib.suppress(UserError):
                read("slim", str(path))


def test_a_truncated_bundle(tmp_path) -> None:
    prefix = v2(tmp_path / "x.ckpt", {"a": np.arange(9.0)})
    data = tmp_path / "x.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        read("slim", str(prefix))


@pytest.mark.slow
@pytest.mark.parametrize("write", [v1, v2])
def test_half_of_a_network_and_another_one(tmp_path, capfd, write) -> None:
    arrays = variables(5)
    half = {name: arrays[name] for name in list(arrays)[: len(arrays) // 2]}
    line = refused(capfd, tmp_path, "slim", write(tmp_path / "half.ckpt", half))
    assert "lacks InceptionV1/Mixed_4" in line and "more: is it another network's?" in line
    arrays["InceptionV1/Conv2d_1a_7x7/weights"] = np.zeros((3, 3, 3, 64), np.float32)
    line = refused(capfd, tmp_path, "slim", write(tmp_path / "other.ckpt", arrays))
    assert "Conv2d_1a_7x7/weights has shape [64, 3, 3, 3], and the network [64, 3, 7, 7]" in line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.ckpt", b"model_checkpoint_path: 'x'\n", "damaged, or no checkpoint"),
        ("x.tar.gz", gzip.compress(b"...", mtime=0), "is an archive: unpack it (tar xzf FILE)"),
        ("x.pb", b"...mixed4a_3x3_pre_relu/conv...", "4a has 204 filters of 3x3 in place of 208"),
        ("frozen.pb", b"...", "is a graph, not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, capfd, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refused(capfd, tmp_path, "slim", tmp_path / name)


# TensorFlow's padding


@pytest.mark.slow
@pytest.mark.parametrize("px", [14, 15])
def test_conv1_padded_same_is_laxs(px: int, rng) -> None:
    """Its values and gradients; on odd sizes it is the symmetric one."""
    x = rng.normal(size=(2, px, px, 3)).astype(np.float32)
    conv = {
        padding: Conv(4, 7, 2, padding=padding, relu=False) for padding in ("same", "symmetric")
    }
    kernel = rng.normal(size=(7, 7, 3, 4)).astype(np.float32)
    weights = {"params": {"Conv_0": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}}

    def plain(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=layout)

    def ours(x, kernel, padding="same"):
        changed = {"params": {"Conv_0": {**weights["params"]["Conv_0"], "kernel": kernel}}}
        return conv[padding].apply(changed, x, train=False)

    np.testing.assert_allclose(ours(x, kernel), plain(x, kernel), atol=1e-4)
    got = jax.grad(lambda *a: jnp.sum(jnp.sin(ours(*a))), (0, 1))(x, kernel)
    expected = jax.grad(lambda *a: jnp.sum(jnp.sin(plain(*a))), (0, 1))(x, kernel)
    for ours_, plain_ in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours_, plain_, atol=1e-3)
    same = np.allclose(ours(x, kernel, "symmetric"), plain(x, kernel), atol=1e-4)
    assert same == (px == 15)
