"""Eight CPU devices, or as XLA_FLAGS has them; strict promotion of dtypes and ranks, one compilation cache, for all tests."""

import gc
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from benchmarks import faults

# Compiled fast rather than well: tests that start a process of their own compile as users do.
DEVICES = os.environ.get("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ["XLA_FLAGS"] = f"{DEVICES} {faults.compile_fast()}"
os.environ["JAX_PLATFORMS"] = "cpu"
# Runs started as processes of their own compile the same few programs: they share this folder.
CACHE = pathlib.Path(tempfile.gettempdir()) / f"inception-test-cache-{os.getuid()}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from etils.epath import backend, gpath  # noqa: E402
from fsspec.implementations.dirfs import DirFileSystem  # noqa: E402
from fsspec.implementations.local import LocalFileSystem  # noqa: E402
from PIL import Image  # noqa: E402

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
gc.set_threshold(100_000, 20, 20)  # tracing makes many objects that stay: fewer looks at them

LONG = ("slurm", "train", "experiments", "step", "scales", "cli", "finetune", "docs", "evaluate",
        "processes", "predict", "pretrained", "kernels", "gradients", "inspect", "model", "plan",
        "bench", "study", "slim", "visualize", "where", "redundancy")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first: no worker waits for another at the end."""
    items.sort(key=lambda i: [*LONG, name := i.path.stem.removeprefix("test_")].index(name))


@pytest.fixture(scope="module")
def short_network() -> Iterator[None]:
    from tests import tiny

    with tiny.short_network():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of three class folders with ten pictures each, of many sizes and modes."""
    rng = np.random.default_rng(0)
    modes = (("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"),
             ("I;16", "PNG"), ("1", "PNG"), ("LA", "PNG"), ("RGB", "WEBP"), ("RGB", "PNG"))  # fmt: skip
    root = tmp_path / "photos"
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for i, (mode, kind) in enumerate(modes):
            width, height = rng.integers(20, 200, 2)
            pixels = rng.integers(0, 80, (height, width, 3)).astype(np.uint8)
            pixels[..., label] += 150
            image = Image.fromarray(pixels)
            if mode == "I;16":
                image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
            else:
                image = image.convert(mode)
            image.save(root / name / f"{i}.{kind.lower()}", kind)
    return root


@pytest.fixture
def xrays(tmp_path: pathlib.Path) -> pathlib.Path:
    """Three class folders of 12-bit pictures in 16-bit files, ten each; a film in each."""
    rng = np.random.default_rng(0)
    root = tmp_path / "xrays"
    for i in range(30):
        folder = root / f"colour {i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 4096, (40, 40)).astype(np.uint16)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        (folder / "film.mp4").touch()
    return root


@pytest.fixture
def bucket(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The folder behind gs://bucket."""
    root = tmp_path / "bucket"
    root.mkdir()

    class Bucket(DirFileSystem):
        protocol = "gs"

        def __init__(self, **_):
            super().__init__(path=str(tmp_path), fs=LocalFileSystem(auto_mkdir=True))

        @classmethod
        def _strip_protocol(cls, path):
            return str(path).removeprefix("gs://").rstrip("/")

    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gcs", Bucket)
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield root
    backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture
def shared_data() -> pathlib.Path:
    """Real photos for development, in `shared/data` beside the checkout; skips without them."""
    path = pathlib.Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("there is no shared/data beside this checkout")
    return path
