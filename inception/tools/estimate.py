"""A model of the time that a described device takes for a program and for each of its parts."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from inception.tools import program
from inception.tools.program import Instruction, Program
from inception.tools.topology import Topology

MATRIX_SHARE = 0.5  # assumed: the share of the peak that cuDNN reaches
LAUNCH_SECONDS = 2e-6  # assumed: to launch a kernel
# Parts of a step outside the network, by the file in which an instruction was traced.
PARTS = (
    ("input", r"pixels\.py"),
    ("sums over devices", r"sharding\.py"),  # joins and splits the arrays
    ("loss", r"/optax/losses/"),
    ("optimizer", r"optim\.py|/optax/"),
    ("loss", ""),
)
COLLECTIVE, REST = "collective", "ReLU and the rest"
# Matched in this order with an instruction's scopes, the function that traced it, and its opcodes.
OPERATIONS = (
    (
        "pool",
        r"/pool\d|\.py \S*(max|pool)|reduce.window|select.and.scatter|GoogLeNet\)*/reduce_sum",
    ),
    ("LRN", r"/lrn\d|local_response"),
    ("BatchNorm", r"BatchNorm"),
    ("dropout", r"Dropout"),
    ("concatenation", r"/concatenate|/split"),
    ("bias gradient", r"transpose\(.*(Conv_0|fc|classifier)/reduce_sum"),
    ("cast, layout", r"/(convert_element_type|transpose|copy)\b"),
)
_IN_NO_LAYER = re.compile(r"/(closed_call|body)$")  # constants, which several layers share
_ASYNCHRONOUS = ("copy-start", "slice-start")  # overlap with the computation on TPUs


def estimate(parsed: Program, topology: Topology) -> dict[str, Any]:
    """Estimates the time of one run of a program, in all and by part.

    Returns:
        {'seconds', 'cycles': the compiler's own estimate, None on GPUs, 'flops', 'bytes',
        'kernels': instructions that run, 'model': how the time is estimated, 'layers',
        'operations': [{'name', 'seconds', 'share', 'bytes', 'flops', 'kernels'}], most expensive
        first}, all of one device.
    """
    seconds_of = _on_gpu if topology.chip.target else _on_tpu
    parts = []
    for i, times in program.executed(parsed):
        row: dict[str, Any] = {
            "bytes": i.moved_bytes,
            "flops": program.flops(parsed, i),
            "kernels": 1,
        }
        row["seconds"] = seconds_of(i, row["flops"], topology)
        names = labels(parsed, i, row["flops"])
        parts.append((names, {key: times * value for key, value in row.items()}))
    total = {
        key: sum(row[key] for _, row in parts) for key in ("seconds", "flops", "bytes", "kernels")
    }
    counted = sum(cycles(i) * times for i, times in program.executed(parsed))
    return total | {
        "cycles": counted or None,
        "model": model(topology),
        "layers": _rows((names[0], row) for names, row in parts),
        "operations": _rows((names[1], row) for names, row in parts),
    }


def model(topology: Topology) -> str:
    """The assumptions of `estimate`, in words."""
    chip = topology.chip
    memory = f"{chip.bandwidth / 1e12:.3g} TB/s"
    if chip.target:
        text = (
            f"for each instruction the longer of its bytes at {memory} and its FLOPs at "
            f"{MATRIX_SHARE:.0%} of {chip.bfloat16_flops / 1e12:,.0f} TFLOP/s (float32: "
            f"{chip.float32_flops / 1e12:,.0f}), and {LAUNCH_SECONDS * 1e6:.0f} us to launch"
        )
    else:
        text = (
            f"the compiler's estimated_cycles at {chip.clock_hz / 1e9:.3g} GHz, or without one "
            f"its bytes at {memory}"
        )
    if len(topology.devices) > 1:
        text += (
            f"; for a collective its bytes at {chip.link_bandwidth / 1e9:.0f} GB/s out of a device "
            f"and {topology.collective_seconds * 1e6:.0f} us"
        )
    return f"{text}; nothing overlaps"


def labels(parsed: Program, i: Instruction, flops: int) -> tuple[str, str]:
    """(the layer or the part of the step, the operation) of an instruction."""
    if program.collective(i):
        return "collectives", COLLECTIVE
    inside = parsed.inside(i)
    named = [i, *reversed(inside)]  # an unnamed fusion takes its root's name
    of = next((part for part in named if part.path and not _IN_NO_LAYER.search(part.path)), None)
    layer, where = program.layer(of.path if of else "", set()), parsed.traced_in(of or i)
    if layer == program.OUTSIDE:
        layer = next(name for name, pattern in PARTS if re.search(pattern, where))
        return layer, layer
    if flops and not layer.startswith("lrn"):  # LRN is a product on TPUs
        convolves = any("dim_labels" in part.attributes for part in inside)
        return layer, "convolution" if convolves else "product"
    text = " ".join([of.path if of else "", where, *(part.opcode for part in inside)])
    rest = REST if of else "cast, layout"
    return layer, next((name for name, pattern in OPERATIONS if re.search(pattern, text)), rest)


def _on_gpu(i: Instruction, flops: int, topology: Topology) -> float:
    chip = topology.chip
    if program.collective(i):
        return _sending(i, topology)
    half = any(shape.startswith(("bf16", "f16")) for shape in i.operands)
    peak = MATRIX_SHARE * (chip.bfloat16_flops if half else chip.float32_flops)
    return max(i.moved_bytes / chip.bandwidth, flops / peak) + LAUNCH_SECONDS


def _on_tpu(i: Instruction, _flops: int, topology: Topology) -> float:
    if program.collective(i):
        return _sending(i, topology)
    if i.opcode in _ASYNCHRONOUS:
        return 0.0
    return cycles(i) / topology.chip.clock_hz or i.moved_bytes / topology.chip.bandwidth


def cycles(i: Instruction) -> int:
    """Cycles of an instruction, as the compiler for TPUs estimates them; 0 without an estimate."""
    return int(i.attribute(r'"estimated_cycles":"(\d+)"') or 0)


def _sending(i: Instruction, topology: Topology) -> float:
    """Seconds of a collective in a ring over all devices."""
    n, given = len(topology.devices), sum(map(program.bytes_of, i.operands))
    rounds: dict[str, Callable[[], float]] = {
        "all-reduce": lambda: 2 * given * (n - 1) / n,
        "all-gather": lambda: given * (n - 1),
        "reduce-scatter": lambda: given * (n - 1) / n,
    }
    sent = rounds.get(program.collective(i), lambda: given)()
    return sent / topology.chip.link_bandwidth + topology.collective_seconds


def _rows(parts: Iterable[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    sums: dict[str, dict[str, Any]] = {}
    for name, part in parts:
        row = sums.setdefault(name, dict.fromkeys(part, 0))
        for key, value in part.items():
            row[key] += value
    seconds = sum(row["seconds"] for row in sums.values())
    rows = [
        {
            "name": name,
            "seconds": row["seconds"],
            "share": row["seconds"] / seconds if seconds else 0.0,
            "bytes": row["bytes"],
            "flops": row["flops"],
            "kernels": row["kernels"],
        }
        for name, row in sums.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])
