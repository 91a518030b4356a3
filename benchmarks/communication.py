"""What a training step sends between the devices, read from the compiled program.

    python benchmarks/communication.py [--on=cpu:8 | here | v5e:16x16] [--norms=lrn,batch]
        [--config.KNOB=VALUE ...]

Compiles the step that training runs, experiments/base.py's, once with LRN and once with BatchNorm,
and lists every collective of the program that comes out: what for, how many, and the bytes that
each device puts in. Nothing is run and no data is needed. `cpu:N` is N pretended CPU devices,
`here` the devices that are there, and any other name a TPU that need not be there, as libtpu
calls it (`pip install -c requirements.txt -e '.[tpu]'`).
"""

import argparse
import collections
import os
import pathlib
import re
import sys
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from inception import train  # noqa: E402
from inception.config import load_config  # noqa: E402

IMAGES = 1_281_167  # of ImageNet's training set: how long a schedule is shapes no collective
KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)")


class Sent(NamedTuple):
    """One array that one collective of the program sends."""

    kind: str
    collective: str  # its name in the program; XLA lets one carry many arrays
    purpose: str
    bytes: int  # what one device puts in


def _bytes(hlo_type: str) -> int:
    """'(f32[64]{0}, bf16[2,3]{1,0})' -> 268; a pred is one byte."""
    total = 0
    for dtype, shape in re.findall(r"([a-z]\w*)\[([\d,]*)\]", hlo_type):
        bits = re.search(r"\d+", dtype)
        total += int(np.prod([int(n) for n in shape.split(",") if n])) * int(bits[0] if bits else 8)
    return total // 8


def _purpose(op_name: str) -> str:
    backward = "transpose(" in op_name
    if "BatchNorm" in op_name:
        return f"BatchNorm, {'backward' if backward else 'forward'}"
    if "/cond/" in op_name:
        return "max pool on the CPU"
    return "gradients" if backward else "metrics"


def collectives(hlo: str) -> list[Sent]:
    """Every array that the collectives of a compiled program (`as_text()`) send."""
    defined, found = {}, []
    for line in hlo.splitlines():
        if match := INSTRUCTION.match(line):
            name, hlo_type, opcode, rest = match.groups()
            op_name = re.search(r'op_name="([^"]*)"', line)
            defined[name] = (hlo_type, op_name[1] if op_name else "")
            # On accelerators many come in two halves, -start and -done: the first has the inputs.
            if opcode.removesuffix("-start") in KINDS:
                found.append((opcode.removesuffix("-start"), name, rest.split("), ")[0]))
    return [
        Sent(kind, name, _purpose(defined[array][1] or defined[name][1]), _bytes(defined[array][0]))
        for kind, name, operands in found
        for array in re.findall(r"%([\w.-]+)", operands)
    ]


def devices_on(where: str) -> list:
    """The devices that --on names."""
    if where == "here":
        return jax.devices()
    if where.startswith("cpu:"):
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", int(where.removeprefix("cpu:")))
        return jax.devices()
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # ask no cloud which TPU this is
    return topologies.get_topology_desc(platform="tpu", topology_name=where).devices


def compile_step(config, devices: list):
    """(the train step compiled for these devices, bytes of the parameters)."""
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
    batch_size, px = config.optim.batch_size, config.input_px
    steps_per_epoch = IMAGES / batch_size
    total_steps = round(config.optim.epochs * steps_per_epoch)
    training = train.build(config, mesh, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    state = jax.eval_shape(training.init)
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, px, px, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }
    # On the CPU the collectives are placed before the level counts: 0 compiles sooner and
    # lists the same.
    fast = {"xla_backend_optimization_level": "0"} if devices[0].platform == "cpu" else {}
    compiled = training.step.lower(state, batch).compile(fast)
    return compiled, sum(p.size * p.dtype.itemsize for p in jax.tree.leaves(state.params))


def print_table(sent: list[Sent], param_bytes: int) -> None:
    print(f"{'':32}{'collectives':>12}{'arrays':>8}{'bytes':>14}{'of the parameters':>19}")

    def row(name: str, rows: list[Sent]) -> None:
        total = sum(s.bytes for s in rows)
        count = len({s.collective for s in rows})
        print(f"{name:32}{count:>12}{len(rows):>8}{total:>14,}{total / param_bytes:>19.6f}")

    groups = collections.defaultdict(list)
    for s in sent:
        groups[f"{s.kind}: {s.purpose}"].append(s)
    for name, rows in sorted(groups.items(), key=lambda g: -sum(s.bytes for s in g[1])):
        row(name, rows)
    row("all", sent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", default="cpu:8", help="cpu:N, here, or a TPU: v5e:16x16")
    parser.add_argument("--norms", default="lrn,batch", help="config.model.norm, one or several")
    args, overrides = parser.parse_known_args()
    devices = devices_on(args.on)
    for norm in args.norms.split(","):
        config = load_config(
            str(ROOT / "experiments" / "base.py"), [f"--config.model.norm={norm}", *overrides]
        )
        compiled, param_bytes = compile_step(config, devices)
        cost = compiled.cost_analysis() or {}
        print(
            f"\nnorm={norm}, {len(devices)} x {devices[0].device_kind}, "
            f"batch {config.optim.batch_size}, parameters {param_bytes:,} bytes; a device computes "
            f"{cost.get('flops', 0) / 1e9:,.0f} GFLOP and moves "
            f"{cost.get('bytes accessed', 0) / 1e9:,.1f} GB a step, as XLA counts"
        )
        print_table(collectives(compiled.as_text()), param_bytes)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
