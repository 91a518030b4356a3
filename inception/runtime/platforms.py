"""CPU alone, where the compilers for accelerators are installed and the accelerators are not there.

JAX takes `.[compile]` for drivers: it warns that they find no device, and starts later.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import pkgutil
from collections.abc import Mapping

GOOGLE = "0x1ae0"  # vendor on the PCI bus
NO_TPUS = ("0x0042", "0x001f")  # of it: its virtual network card and disk
DEVICES = (
    "nvidia*",
    "dxg",
    "kfd",
    "accel*",
    "vfio/[0-9]*",
    "vfio/devices/*",
)  # of GPUs and TPUs in /dev
ANNOUNCED = ("TPU_", "JAX_FORCE_TPU_INIT", "CLOUD_TPU_", "MEGASCALE_", "JAX_PLATFORM", "PJRT_")
OURS = "jax_plugins.xla_cuda"


def choose() -> None:
    """Sets JAX_PLATFORMS=cpu where JAX could find nothing else; to be called before its import.

    NOTE: a submitted job inherits the variable, and would ignore its machine's devices: do not call
    this before a job is submitted.
    """
    if compilers_alone() and not (announced(os.environ) or present(pathlib.Path("/"))):
        os.environ["JAX_PLATFORMS"] = "cpu"


def compilers_alone() -> bool:
    """Whether JAX would find no plugin but CUDA's, and no driver for it."""
    return all(name.startswith(OURS) for name in plugins()) and not driver()


def plugins() -> set[str]:
    """The plugins that JAX would load: modules of jax_plugins, and what packages announce."""
    found = importlib.util.find_spec("jax_plugins")
    folders = found.submodule_search_locations if found else ()
    modules = {f"jax_plugins.{module.name}" for module in pkgutil.iter_modules(folders)}
    announced = importlib.metadata.entry_points(group="jax_plugins")
    return modules | {point.value for point in announced}


def driver() -> bool:
    """Whether CUDA's driver can be loaded, without which there is no GPU of NVIDIA's."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def announced(environment: Mapping[str, str]) -> bool:
    """Whether the environment speaks of TPUs, or chooses a platform itself."""
    return any(name.startswith(ANNOUNCED) for name in environment)


def present(root: pathlib.Path) -> bool:
    """Whether a device of a GPU or a TPU is under root/dev, or a TPU on the PCI bus in root/sys."""
    if any(any((root / "dev").glob(pattern)) for pattern in DEVICES):
        return True
    try:
        return any(
            (device / "vendor").read_text().strip() == GOOGLE
            and (device / "device").read_text().strip() not in NO_TPUS
            for device in (root / "sys/bus/pci/devices").glob("*")
        )
    except OSError:  # JAX may look for itself
        return True
