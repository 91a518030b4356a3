"""check-data names what was planted in a set, and nothing else."""

import io
import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

import launch
from inception.data import decoding
from inception.tools import check_data

CLASSES = ("ant", "bee", "cat", "dog")
KINDS = {"empty", "damaged", "too_large", "mode", "bits", "animation", "duplicate"}


@pytest.fixture
def pictures(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    """200 sound pictures of several kinds: set/{train,val}/CLASS/N.jpg, of four classes."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(200):
        folder = tmp_path / "set" / ("val" if i >= 160 else "train") / CLASSES[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (60, 70, 3)).astype(np.uint8))
        kind, mode = (("jpg", "RGB"), ("png", "L"), ("png", "RGBA"), ("gif", "P"),
                      ("png", "P"), ("jpg", "L"), ("webp", "RGB"), ("png", "1"))[i // 4 % 8]  # fmt: skip
        files.append(folder / f"{i}.{kind}")
        image.convert(mode).save(files[-1])
    return files


def noise(mode: str, *shape: int) -> Image.Image:
    rng = np.random.default_rng(sum(shape))
    return Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8), mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def deep(most: int) -> Image.Image:
    return Image.fromarray(np.linspace(0, most, 100).reshape(10, 10).astype(np.uint16))


def floats(path: pathlib.Path) -> bytes:
    return encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF")


def cut(path: pathlib.Path) -> bytes:
    return (data := path.read_bytes())[: len(data) * 2 // 3]


def torn(path: pathlib.Path) -> bytes:
    data = bytearray(encoded(noise("RGB", 50, 50, 3), "PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


Plant = Callable[[pathlib.Path], bytes]
# Ten faults and the kind by which each is named; each is planted twice.
PLANTED: tuple[tuple[str, Plant], ...] = (
    ("empty", lambda _: b""),
    ("damaged", lambda _: b"<html>404 Not Found</html>" * 9),
    ("damaged", cut),
    ("damaged", torn),
    ("too_large", lambda _: encoded(Image.new("L", (1100, 1000)), "PNG")),
    ("mode", lambda path: encoded(noise("CMYK", 30, len(path.name) + 30, 4), "JPEG")),
    ("mode", lambda path: encoded(noise("RGBA", 30, len(path.name) + 30, 4), "PNG")),
    ("mode", floats),
    ("bits", lambda _: encoded(deep(40_000), "PNG")),
    ("animation", lambda _: encoded(noise("L", 20, 20), "GIF", save_all=True, append_images=[noise("L", 21, 20)])),
)  # fmt: skip


def check(capfd, root: pathlib.Path, *flags: str) -> tuple[int, dict, str]:
    args = ["check-data", "--config=experiments/photos.py", f"--config.data.path={root}",
            "--config.model.classes=4", "--config.data.max_megapixels=1.0", "--json", *flags]  # fmt: skip
    status = launch.main(args)
    out, err = capfd.readouterr()
    assert out, err
    return status, json.loads(out), err


def test_all_that_was_planted_is_named_and_nothing_else(pictures, tmp_path, capfd) -> None:
    root = tmp_path / "set"
    status, result, _ = check(capfd, root, "--config.data.bits=12")
    assert status == 0 and result["problems"] == []
    assert result["splits"] == {
        "train": dict.fromkeys(CLASSES, 40),
        "val": dict.fromkeys(CLASSES, 10),
    }
    wanted = {}
    jpegs = [p for p in pictures if p.suffix == ".jpg"]
    rest = [p for p in pictures if p.suffix != ".jpg"]
    for i, (kind, plant) in enumerate(PLANTED[:9] * 2):
        file = jpegs[i] if plant is cut else rest[i * 6]
        file.write_bytes(plant(file))
        wanted[str(file)] = kind
    for original, copy in ((jpegs[20], pictures[-1]), (rest[1], pictures[-2])):
        shutil.copy(original, copy)
        wanted[str(copy)] = "duplicate"
    assert len(wanted) == 20
    status, result, err = check(capfd, root, "--config.data.bits=12")
    found = {p["image"]: p["kind"] for p in result["problems"]}
    assert status == 1 and found == wanted and len(result["problems"]) == 20
    assert all(err.count(f"{image}: ") == 1 for image in wanted)
    assert sum(map(sum, (s.values() for s in result["splits"].values()))) == 200


@pytest.mark.parametrize(("kind", "plant"), PLANTED)
def test_each_fault_has_one_kind(kind: str, plant: Plant, pictures) -> None:
    """And what no run can read is what decoding refuses."""
    reading = {"max_megapixels": 1.0, "bits": 12}
    data = plant(pictures[0])
    ((found, reason),) = check_data.faults(data, **reading)
    assert found == kind in KINDS and reason and "\n" not in reason
    readable = kind in ("animation",) or (kind == "mode" and plant is not floats)
    try:
        decoding.decode(data, "", **reading)
        assert readable
    except decoding.DamagedImageError:
        assert not readable


def test_deep_pictures_need_a_number_of_bits() -> None:
    data = encoded(deep(4000), "PNG")
    for bits, kinds in ((0, ["bits"]), (12, []), (16, []), (8, ["bits"])):
        found = check_data.faults(data, max_megapixels=1.0, bits=bits)
        assert [kind for kind, _ in found] == kinds
