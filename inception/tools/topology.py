"""Devices not on this machine: descriptions for their compilers, and their makers' figures."""

import fnmatch
import importlib.metadata
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from inception import UserError

INSTALL = "pip install -c requirements.txt -e '.[compile]'"
HOP_SECONDS = 1e-6  # assumed: a small message between two TPUs
NCCL_SECONDS = 20e-6  # assumed: a small all-reduce on a machine of 8 GPUs


class Chip(NamedTuple):
    """A kind of device; rates are per second and per device."""

    memory_bytes: int
    bandwidth: float  # of that memory
    bfloat16_flops: float  # of dense matrix products
    float32_flops: float  # of float32 ones: on GPUs TF32, on TPUs bfloat16, JAX's default
    clock_hz: float
    link_bandwidth: float  # bytes out of a device
    target: str = ""  # of a GPU: XLA's GpuTargetConfigProto as text


class Topology(NamedTuple):
    """Described devices, for which programs can be compiled but not run."""

    name: str
    devices: list[Any]
    chip: Chip
    collective_seconds: float  # a collective's time apart from its bytes


# Memory, bandwidth, clock and the fields below: XLA's xla/backends/gpu/target_config/specs,
# h100_sxm, h200, a100_sxm_80 and b200.txtpb. Peak, also from there: cores x 4 matrix units x
# multiply-adds a cycle (A100 256, H100 512, B200 1,024) x 2 x the units' clock (1.41, 1.83, 1.835
# GHz); TF32 has half.
# Links: half of NVLink's 600, 900 and 1,800 GB/s for both directions, NVIDIA's data sheets.
_FIELDS = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {optin} core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: {ghz}
  device_memory_size: {memory} cuda_compute_capability {{ major: {major} minor: 0 }}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 2 }}
device_description_str: "{kind}"
"""


def _gpu(kind: str, *, peak: float, link: float, **fields: Any) -> Chip:
    text = _FIELDS.format(kind=kind, **fields)
    rates = (fields["bandwidth"], peak, peak / 2, fields["ghz"] * 1e9, link)
    return Chip(fields["memory"], *rates, text)


_HOPPER = {"cores": 132, "fpus": 128, "shared": 233472, "optin": 232448, "l2": 52428800}
GPUS = {
    "a100": _gpu(
        "NVIDIA A100-SXM4-80GB", peak=312e12, link=300e9, cores=108, fpus=64, shared=167936,
        optin=166912, l2=41943040, ghz=1.41, bandwidth=2039040000000, memory=85100068864, major=8,
    ),
    "h100": _gpu(
        "NVIDIA H100 80GB HBM3", peak=989e12, link=450e9, **_HOPPER,
        ghz=1.98, bandwidth=3352320000000, memory=84942979072, major=9,
    ),
    "h200": _gpu(
        "NVIDIA H200 141GB HBM3e", peak=989e12, link=450e9, **_HOPPER,
        ghz=1.98, bandwidth=4800000000000, memory=151397597184, major=9,
    ),
    "b200": _gpu(
        "NVIDIA B200", peak=2225e12, link=900e9, cores=148, fpus=128, shared=233472,
        optin=232448, l2=132644864, ghz=1.965, bandwidth=7672320000000, memory=191514411008,
        major=10,
    ),
}  # fmt: skip
# https://docs.cloud.google.com/tpu/docs/v5e, v5p and v6e: memory, bandwidth, peak, and half of the
# links' bandwidth for both directions. On v5e and v6e the compiler leaves 0.25 GiB less.
# Clocks: the peak over the FLOPs per cycle, which are 4, 8 and 16 times 2 x 128 x 128.
TPUS = {
    "v5e": Chip(16 * 2**30, 819e9, 197e12, 197e12, 1.5e9, 200e9),
    "v5p": Chip(95 * 2**30, 2765e9, 459e12, 459e12, 1.75e9, 600e9),
    "v6e": Chip(32 * 2**30, 1638e9, 918e12, 918e12, 1.75e9, 400e9),
}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SLICES = {  # from the same pages
    "v5e": _FLAT,
    "v5p": (
        "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16",
        "8x16x16", "16x16x16", "16x16x24",
    ),
    "v6e": _FLAT,
}  # fmt: skip
MOST_GPUS = 8  # of a machine
QUIET = {  # for libtpu: look for no TPU, do not warn, let a second process load it
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def described(name: str) -> Topology:
    """Returns the devices of a name: 'h100', 'h100:8', 'v5e:4x4'.

    From then on, JAX computes on the CPU in this process and caches no program.

    Raises:
        UserError: the name is unknown, or the compiler is not installed.
    """
    # The cache writes programs for described devices and cannot read them back.
    jax.config.update("jax_enable_compilation_cache", False)
    kind, colon, size = name.partition(":")
    size = size if colon else "1"
    if kind in GPUS and size in map(str, range(1, MOST_GPUS + 1)):
        _check_compiler("jax-cuda13-plugin", jax.__version__)
        _check_compiler("jax-cuda13-pjrt", jax.__version__)
        jax.config.update("jax_platforms", "cpu")
        devices = topologies.get_topology_desc(
            platform="cuda", topology=f"1x1x{size}", target_config=GPUS[kind].target
        ).devices
        return Topology(name, devices, GPUS[kind], NCCL_SECONDS)
    if kind in TPUS and size in SLICES[kind]:
        _check_compiler("libtpu", _libtpu_of_jax())
        jax.config.update("jax_platforms", "cpu")
        for variable, value in QUIET.items():
            os.environ.setdefault(variable, value)
        one = {"chips_per_host_bounds": [1, 1, 1]} if size == "1x1" else {}
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **one).devices
        hops = sum(int(side) - 1 for side in size.split("x"))
        return Topology(name, devices, TPUS[kind], 2 * hops * HOP_SECONDS)
    slices = "; ".join(f"{kind}:{'|'.join(sizes)}" for kind, sizes in SLICES.items())
    gpus = f"{'|'.join(GPUS)}, or with :2 to :{MOST_GPUS}"
    raise UserError(f"`topology`={name}: unknown; choose from {gpus}; {slices}")


def _check_compiler(package: str, wanted: str) -> None:
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"`topology` needs {package}, which is not installed: {INSTALL}") from None
    if not fnmatch.fnmatch(found, wanted):
        raise UserError(
            f"`topology`: {package} is {found}, and jax {jax.__version__} needs {wanted}: {INSTALL}"
        )


def _libtpu_of_jax() -> str:
    """The version that this jax requires, '0.0.42.*'."""
    for line in importlib.metadata.requires("jax") or ():
        if found := re.match(r"libtpu==([\d.*]+)", line):
            return found[1]
    return "*"
