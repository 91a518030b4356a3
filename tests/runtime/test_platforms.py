"""When a machine is taken to have no accelerator: only where nothing speaks for one."""

import os
import pathlib

import pytest

from inception.runtime import platforms

CUDA = "jax_plugins.xla_cuda13"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """JAX's plugins as if they were installed; CUDA's driver is not."""
    names: set[str] = set()
    monkeypatch.setattr(platforms, "plugins", lambda: names)
    monkeypatch.setattr(platforms, "driver", lambda: False)
    return names


def test_compilers_alone(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert platforms.compilers_alone()  # libtpu is no plugin
    installed.add(CUDA)
    assert platforms.compilers_alone()
    monkeypatch.setattr(platforms, "driver", lambda: True)
    assert not platforms.compilers_alone()
    monkeypatch.setattr(platforms, "driver", lambda: False)
    installed.add("jax_plugins.metal")  # of a device that is not looked for
    assert not platforms.compilers_alone()


def test_plugins_are_found_as_jax_finds_them(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jax_plugins/one").mkdir(parents=True)
    (tmp_path / "jax_plugins/one/__init__.py").touch()
    (tmp_path / "two.dist-info").mkdir()
    (tmp_path / "two.dist-info/METADATA").write_text("Name: two\nVersion: 1\n")
    (tmp_path / "two.dist-info/entry_points.txt").write_text("[jax_plugins]\nx = somewhere.two\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert platforms.plugins() >= {"jax_plugins.one", "somewhere.two"}


@pytest.mark.parametrize(
    "name",
    ["TPU_NAME", "TPU_WORKER_ID", "JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_FORCE_TPU_INIT"],
)
def test_what_the_environment_announces(name: str) -> None:
    assert platforms.announced({"HOME": "/root", name: ""})
    assert not platforms.announced({"HOME": "/root", "JAX_COMPILATION_CACHE_DIR": "/tmp"})


@pytest.mark.parametrize(
    "device", ["nvidia0", "nvidiactl", "dxg", "kfd", "accel0", "vfio/0"]
)  # fmt: skip
def test_devices_that_are_present(device: str, tmp_path: pathlib.Path) -> None:
    for other in ("null", "vfio/vfio"):  # the last is on machines without devices too
        (tmp_path / "dev" / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / other).touch()
    assert not platforms.present(tmp_path)
    (tmp_path / "dev" / device).touch()
    assert platforms.present(tmp_path)


@pytest.mark.parametrize(
    ("vendor", "device", "there"),
    [
        ("0x1ae0", "0x0063", True),  # v5e
        ("0x1ae0", "0xffff", True),  # Google's, and not known
        ("0x1ae0", "0x0042", False),  # its network card
        ("0x8086", "0x0063", False),
    ],
)
def test_tpus_on_the_bus(vendor: str, device: str, there: bool, tmp_path: pathlib.Path) -> None:
    for i, pair in enumerate((("0x1af4", "0x1000"), (vendor, device))):
        folder = tmp_path / f"sys/bus/pci/devices/{i}"
        folder.mkdir(parents=True)
        for name, value in zip(("vendor", "device"), pair, strict=True):
            (folder / name).write_text(f"{value}\n")
    assert platforms.present(tmp_path) == there


def test_the_choice(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed.add(CUDA)
    for announced, present, chosen in (
        (False, False, "cpu"),
        (True, False, "x"),
        (False, True, "x"),
    ):
        monkeypatch.setenv("JAX_PLATFORMS", "x")
        monkeypatch.setattr(platforms, "announced", lambda _, value=announced: value)
        monkeypatch.setattr(platforms, "present", lambda _, value=present: value)
        platforms.choose()
        assert os.environ["JAX_PLATFORMS"] == chosen
