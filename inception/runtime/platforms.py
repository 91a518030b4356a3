"""Chooses the CPU on machines with the compilers for accelerators, but without accelerators.

JAX takes `.[compile]` for drivers: it warns that they find no device, and starts more slowly.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import pkgutil
from collections.abc import Mapping

GOOGLE = "0x1ae0"  # its vendor number on the PCI bus
NO_TPUS = ("0x0042", "0x001f")  # Google's virtual network card and disk
DEVICES = (
    "nvidia*",
    "dxg",
    "kfd",
    "accel*",
    "vfio/[0-9]*",
    "vfio/devices/*",
)  # files of GPUs and TPUs in /dev
ANNOUNCED = ("TPU_", "JAX_FORCE_TPU_INIT", "CLOUD_TPU_", "MEGASCALE_", "JAX_PLATFORM", "PJRT_")
OURS = "jax_plugins.xla_cuda"


def choose() -> None:
    """Sets JAX_PLATFORMS=cpu if JAX could find only the CPU; call it before importing JAX.

    NOTE: do not call it before submitting a job: the job would inherit the variable, and ignore its
    machine's devices.
    """
    if compilers_alone() and not (announced(os.environ) or present(pathlib.Path("/"))):
        os.environ["JAX_PLATFORMS"] = "cpu"


def compilers_alone() -> bool:
    """Whether JAX would find no plugin except CUDA's, and no CUDA driver."""
    return all(name.startswith(OURS) for name in plugins()) and not driver()


def plugins() -> set[str]:
    """The plugins that JAX would load: modules of jax_plugins, and entry points of packages."""
    found = importlib.util.find_spec("jax_plugins")
    folders = found.submodule_search_locations if found else ()
    modules = {f"jax_plugins.{module.name}" for module in pkgutil.iter_modules(folders)}
    announced = importlib.metadata.entry_points(group="jax_plugins")
    return modules | {point.value for point in announced}


def driver() -> bool:
    """Whether CUDA's driver can be loaded; every NVIDIA GPU needs it."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def announced(environment: Mapping[str, str]) -> bool:
    """Whether an environment variable announces TPUs, or chooses a platform."""
    return any(name.startswith(ANNOUNCED) for name in environment)


def present(root: pathlib.Path) -> bool:
    """Whether root/dev contains a GPU or a TPU, or root/sys a TPU on the PCI bus."""
    if any(any((root / "dev").glob(pattern)) for pattern in DEVICES):
        return True
    try:
        return any(
            (device / "vendor").read_text().strip() == GOOGLE
            and (device / "device").read_text().strip() not in NO_TPUS
            for device in (root / "sys/bus/pci/devices").glob("*")
        )
    except OSError:  # unreadable: JAX itself has to look
        return True
