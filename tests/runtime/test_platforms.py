"""When a machine is taken to have no accelerator: only where nothing speaks for one."""

import importlib.metadata
import os
import pathlib
import types

import pytest

from inception.runtime import platforms

CUDA = "jax_plugins.xla_cuda13"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """JAX's plugins as if they were installed; libtpu is not, nor CUDA's driver."""
    plugins: list[str] = []

    def points(group: str):
        assert group == "jax_plugins"
        return [types.SimpleNamespace(value=value) for value in plugins]

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    monkeypatch.setattr(platforms.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(platforms, "driver", lambda: False)
    return plugins


def test_compilers_alone(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not platforms.compilers_alone()  # nothing to leave out
    installed.append(CUDA)
    assert platforms.compilers_alone()
    monkeypatch.setattr(platforms, "driver", lambda: True)
    assert not platforms.compilers_alone()
    monkeypatch.setattr(platforms, "driver", lambda: False)
    installed.append("jax_plugins.metal")  # of a device that is not looked for
    assert not platforms.compilers_alone()
    installed.clear()
    monkeypatch.setattr(platforms.importlib.util, "find_spec", lambda name: name)
    assert platforms.compilers_alone()  # libtpu


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


def test_the_choice(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed.append(CUDA)
    for announced, present, chosen in ((0, 0, "cpu"), (1, 0, "x"), (0, 1, "x")):
        monkeypatch.setenv("JAX_PLATFORMS", "x")
        monkeypatch.setattr(platforms, "announced", lambda _, value=announced: value)
        monkeypatch.setattr(platforms, "present", lambda _, value=present: value)
        platforms.choose()
        assert os.environ["JAX_PLATFORMS"] == chosen
