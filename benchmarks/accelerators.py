"""Compiles this checkout's programs, and another checkout's beside them, for GPUs and TPUs.

    python benchmarks/accelerators.py [--against=DIR] [--only=h100_train,v5e_train]
        [--config.KNOB=VALUE ...]

Needs no accelerator: `pip install -c requirements.txt -e '.[compile]'`. A program for an H100 takes
about a minute to compile, a program for a TPU at least five; each compiles in a process of its own.
Bytes on GPUs are what the instructions read and write, bytes on TPUs the compiler's count. All
values are of one device and one step, in bfloat16.
"""

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


class Row(NamedTuple):
    """A program to compile."""

    topology: str
    what: str
    experiment: str
    batch_size: int


ROWS = {
    "h100_train": Row("h100", "train", "base", 256),
    "h100_eval": Row("h100", "eval", "base", 256),
    "v5e_train": Row("v5e:1x1", "train", "base", 128),
    "8_h100_train": Row("h100:8", "train", "base", 2048),
    "bn_h100_train": Row("h100", "train", "bn", 256),
    "bn_8_h100_train": Row("h100:8", "train", "bn", 2048),
}
ALONE = {"8_h100_train": "h100_train", "bn_8_h100_train": "bn_h100_train"}
OVERRIDES = ("--config.model.dtype=bfloat16", "--config.data.path=none")


# The child: it imports `inception` from the tree that it compiles.


def compile_row(root: str, row: Row, overrides: list[str], output: str) -> None:
    """Compiles a tree's program and writes OUTPUT.hlo and OUTPUT.json."""
    sys.path[0] = root
    # Described devices come from this checkout, because older trees have none.
    spec = importlib.util.spec_from_file_location("topology", ROOT / "inception/tools/topology.py")
    topology = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(topology)
    import numpy as np
    from jax.sharding import AxisType, Mesh

    devices = topology.described(row.topology).devices
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
    experiment = str(pathlib.Path(root, "experiments", f"{row.experiment}.py"))
    try:
        from inception.config import load_config
        from inception.tools.bench import compile_step
    except ImportError:
        from inception.configs import load_config

        compile_step = compile_older
    config = load_config(experiment, overrides)
    compiled = compile_step(config, mesh, training=row.what == "train")
    compiled = compiled[0] if isinstance(compiled, tuple) else compiled
    pathlib.Path(f"{output}.hlo").write_text(compiled.as_text())
    found = {
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
        "accessed": (compiled.cost_analysis() or {}).get("bytes accessed"),
    }
    pathlib.Path(f"{output}.json").write_text(json.dumps(found))


def compile_older(config: Any, mesh: Any, *, training: bool) -> Any:
    """Compiles a program of an older tree, with inception/parallel.py, without inception/tools."""
    import jax
    import numpy as np

    from inception import inference, parallel, train
    from inception.model import GoogLeNet

    px = config.input_px
    batch = {
        "image": jax.ShapeDtypeStruct((config.optim.batch_size, px, px, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((config.optim.batch_size,), np.int32),
    }
    if training:
        _, tx = train.optimizer(config, steps_per_epoch=1e6, total_steps=10**8)
        program, init = train.step_function(config, tx, mesh), train.initializer(config, tx)
    else:
        model = GoogLeNet(**config.model)
        x = np.zeros((1, px, px, 3), np.float32)
        init = functools.partial(model.init, jax.random.key(config.seed), x, train=False)
        normalization = config.data.normalization
        forward = functools.partial(inference.eval_step, model=model, normalization=normalization)
        program = parallel.OverBatch(forward, mesh, training=False)
    return program.lower(parallel.replicated_shapes(init, mesh), batch).compile()


# The parent.


def quantities(row: Row, text: str, found: dict[str, Any]) -> dict[str, Any]:
    """The table's quantities of a program, by name."""
    from inception.tools import estimate, program

    parsed = program.parse(text)
    ran = list(program.executed(parsed))
    moved = found["accessed"] or sum(i.moved_bytes * times for i, times in ran)
    result = {"bytes, GB": moved / 1e9, "temporary memory, GB": found["temporary"] / 1e9}
    if row.topology.startswith("v"):
        cycles = sum(estimate.cycles(i) * times for i, times in ran)
        result["estimated cycles, M"] = cycles / 1e6
    else:
        result["instructions"] = sum(times for _, times in ran)
        convolutions = sum("__cudnn$conv" in i.attributes for i, _ in ran)
        result["convolutions of cuDNN"] = convolutions
    for sent in program.collectives(parsed):
        name = f"{sent['kind']} {sent['dtype']}"
        result[name] = sent["count"]
        result[f"{name}, MB"] = sent["bytes"] / 1e6
    return result


def measure(root: pathlib.Path, name: str, overrides: list[str]) -> dict[str, Any]:
    """Compiles a row of a tree in a child; returns its `quantities`."""
    row = ROWS[name]
    size = f"batch_size={row.batch_size}"
    own = [*OVERRIDES, f"--config.optim.{size}", f"--config.run.eval_{size}", *overrides]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, f"--child={root}", f"--only={name}", folder, *own]
        environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
        child = subprocess.run(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if child.returncode:
            sys.exit(f"{name} of {root}:\n{child.stdout.decode()[-3000:]}")
        text = pathlib.Path(folder, "program.hlo").read_text()
        found = json.loads(pathlib.Path(folder, "program.json").read_text())
    return quantities(row, text, found)


def compare(name: str, own: dict[str, Any], other: dict[str, Any]) -> list[list[Any]]:
    """The table's lines of a row: this checkout's value, and, if any, the other's and the ratio."""
    lines = []
    for quantity in {**own, **other}:
        values = [found.get(quantity) for found in ((own, other) if other else (own,))]
        ratio = values[0] / values[1] if len(values) == 2 and all(values) else None
        lines.append([name, quantity, *values, *([ratio] if other else [])])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=pathlib.Path, metavar="DIR", help="another checkout")
    text = f"programs, separated by commas, of {', '.join(ROWS)}"
    parser.add_argument("--only", default=",".join(ROWS), help=text)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.child:
        compile_row(args.child, ROWS[args.only], rest[1:], f"{rest[0]}/program")
        return
    import needs
    from tabulate import tabulate

    roots = [ROOT, *([args.against.resolve()] if args.against else [])]
    names = args.only.split(",")
    if unknown := set(names) - ROWS.keys():
        parser.error(f"--only: there is no {', '.join(unknown)}; there are {', '.join(ROWS)}")
    compilers = {"h": ("jax-cuda13-pjrt", "jax-cuda13-plugin"), "v": ("libtpu",)}
    kinds = {ROWS[name].topology[0] for name in names}
    needs.packages("compile", *[package for kind in sorted(kinds) for package in compilers[kind]])
    for root in roots:
        if not (root / "inception").is_dir():
            parser.error(f"--against={root}: no checkout of this project")
    found: dict[str, list[dict[str, Any]]] = {}
    header = ["program", "", *(root.name for root in roots), *(["ratio"] if args.against else [])]
    for name in names:
        found[name] = [measure(root, name, rest) for root in roots]
        if (one := ALONE.get(name)) in found:
            for several, alone in zip(found[name], found[one], strict=True):
                memory = "temporary memory, GB"
                several["temporary memory, of one alone"] = several[memory] / alone[memory]
        print(tabulate(compare(name, *[*found[name], {}][:2]), header, "plain", ".3f"), flush=True)


if __name__ == "__main__":
    main()
