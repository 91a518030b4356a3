"""The cost of a step on devices that this machine lacks: `launch.py plan --topology`."""

import re
from typing import Any

from ml_collections import ConfigDict

from inception.data import outputs
from inception.evaluation.networks import eval_batch_size
from inception.reporting import markup
from inception.runtime import sharding
from inception.tools import bench, estimate, plan_page, program, topology

UNKNOWN = (  # None for a program that does not compile
    "argument_bytes", "temporary_bytes", "memory_bytes", "flops", "moved_bytes", "kernels",
    "cycles", "estimated_seconds", "images_per_second", "hours", "epochs_a_day",
    "model", "layers", "operations",
)  # fmt: skip


def plan(
    config: ConfigDict,
    name: str,
    *,
    what: str = "train",
    images: int | None = None,
    hlo: str = "",
    output: str = "",
) -> dict[str, Any]:
    """Compiles the step that `train` or `eval` would run on described devices.

    Args:
        config: locked; the batch size is config.optim's, for 'eval' config.run's.
        name: the devices, as `topology.described` takes them.
        what: 'train' or 'eval'.
        images: the number of training images, for the hours and epochs.
        hlo, output: files for the optimised program's text and for a page, .html.

    Returns:
        {'topology', 'what', 'devices', 'batch_size', 'batch_per_device', 'device_memory_bytes',
        'argument_bytes', 'temporary_bytes', 'memory_bytes': the peak, 'fits', 'too_large': [a line,
        if it does not fit], 'flops', 'moved_bytes', 'kernels', 'cycles': of a step on one device,
        'estimated_seconds', 'images_per_second': on all devices, 'hours': of training without
        evaluations, 'epochs_a_day', 'model': how the time is estimated, 'collectives': from
        `program.collectives`, 'layers' and 'operations': from `estimate.estimate`}. Unknown
        values are None.

    Raises:
        UserError: no such devices, no compiler for them, a batch that they do not divide; a file
            that cannot be written.
    """
    outputs.check(hlo=(hlo, b"HloModule"), output=(output, markup.KIND))
    there = topology.described(name)
    mesh = sharding.make_mesh(there.devices)
    config = config.copy_and_resolve_references()
    if what == "eval":
        most = config.run.eval_batch_size
        config.optim.batch_size = eval_batch_size(most, most, mesh)
    size = config.optim.batch_size
    result: dict[str, Any] = {
        "topology": name,
        "what": what,
        "devices": mesh.devices.size,
        "batch_size": size,
        "batch_per_device": size // mesh.devices.size,
        "device_memory_bytes": there.chip.memory_bytes,
    }
    try:
        compiled, _ = bench.compile_step(config, mesh, training=what == "train")
    except RuntimeError as error:  # from the compiler for TPUs
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refused = {"fits": False, "too_large": [_refusal(str(error))], "collectives": []}
        return result | dict.fromkeys(UNKNOWN) | refused
    if hlo:
        outputs.write(hlo, compiled.as_text(), flag="hlo")
    result |= _found(compiled, there, size, images, config.optim.epochs)
    if output:
        outputs.write(output, plan_page.page(result))
    return result


def _found(
    compiled: Any, there: topology.Topology, batch_size: int, images: int | None, epochs: float
) -> dict[str, Any]:
    """The values of `plan` that come from a compiled program."""
    parsed, memory = program.parse(compiled.as_text()), compiled.memory_analysis()
    found, peak = estimate.estimate(parsed, there), bench.memory_bytes(compiled)
    most, rate = there.chip.memory_bytes, batch_size / found["seconds"]
    # TPUs pad arrays and keep some on the chip, which only their compiler counts; but it counts a
    # loop's body once.
    counted = (compiled.cost_analysis() or {}).get("bytes accessed")
    once = sum(i.moved_bytes for i, _ in program.executed(parsed))
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "memory_bytes": peak,
        "fits": peak <= most,
        "too_large": [_too_large(peak, most)] if peak > most else [],
        "flops": found["flops"],
        "moved_bytes": round(counted * found["bytes"] / once) if counted else found["bytes"],
        "kernels": found["kernels"],
        "cycles": found["cycles"],
        "estimated_seconds": found["seconds"],
        "images_per_second": rate,
        "hours": images * epochs / rate / 3600 if images else None,
        "epochs_a_day": rate * 86400 / images if images else None,
        "model": found["model"],
        "collectives": program.collectives(parsed),
        "layers": found["layers"],
        "operations": found["operations"],
    }


def _refusal(error: str) -> str:
    """The line about a program too large for a TPU, from the compiler's message in binary units."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    sizes = [float(n) * units[unit] for n, unit in re.findall(r"\b([\d.]+)([KMGT])\b", error)]
    return _too_large(sizes[0], sizes[1]) if len(sizes) > 1 else error.splitlines()[0]


def _too_large(needed: float, most: float) -> str:
    gigabytes = f"{needed / 1e9:.1f} GB, {(needed - most) / 1e9:.1f} GB more than a device has"
    return (
        f"the program needs {gigabytes}: give fewer images a device, or to train "
        "config.optim.accumulate or config.model.remat"
    )
