"""The text of an optimised program (`compiled.as_text()`) -> what it computes, moves and sends."""

import collections
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

BETWEEN = "between layers"  # instructions that the compiler did not name, mostly copies
OUTSIDE = "input, loss, optimizer"
CONTAINERS = {"while", "conditional", "call"}  # their cost is that of the computations in them
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$")
# cuDNN's convolution -> the positions in (operands..., result) of the image, the kernel and the
# output to which window and dim_labels refer.
_CUDNN = {
    "convForward": (0, 1, -1),
    "convBiasActivationForward": (0, 1, -1),
    "convBackwardInput": (-1, 1, 0),
    "convBackwardFilter": (0, -1, 1),
}


class Instruction(NamedTuple):
    """One line of a program; shapes as in the text: 'bf16[8,3]{1,0}', or a tuple of these."""

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]  # their shapes
    attributes: str

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in the attributes, or ''."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""

    @property
    def path(self) -> str:
        """The scopes it was traced in, 'jit(f)/GoogLeNet/3a/1x1/Conv_0/dot_general'."""
        return self.attribute(r'op_name="([^"]*)"')

    @property
    def moved_bytes(self) -> int:
        """The bytes that it writes and reads: its result and its operands."""
        return sum(map(bytes_of, (self.shape, *self.operands)))


class Program(NamedTuple):
    """A program's instructions by computation, and the function that each was traced in."""

    computations: dict[str, list[Instruction]]
    entry: str
    frames: dict[str, str]  # stack_frame_id -> 'path/of/file.py function'

    def inside(self, instruction: Instruction) -> list[Instruction]:
        """The instructions of a fusion, or [instruction] if it is none."""
        return self.computations.get(instruction.attribute(r"calls=%([\w.\-]+)"), [instruction])

    def traced_in(self, instruction: Instruction) -> str:
        """Where it was traced: 'path/of/file.py function', or ''."""
        return self.frames.get(instruction.attribute(r"stack_frame_id=(\d+)"), "")


def parse(text: str) -> Program:
    """Reads `compiled.as_text()`, of any platform."""
    computations: dict[str, list[Instruction]] = {}
    entry = ""
    current: list[Instruction] = []
    shapes: dict[str, str] = {}
    for line in text.splitlines():
        if begun := _COMPUTATION.match(line):
            computations[begun[2]] = current = []
            shapes = {}
            entry = begun[2] if begun[1] else entry
        elif found := _INSTRUCTION.match(line):
            name, shape, opcode, rest = found.groups()
            shapes[name] = shape
            names = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            operands = tuple(shapes[n] for n in names if n in shapes)
            current.append(Instruction(name, opcode, shape, operands, rest))
    return Program(computations, entry, _frames(text))


def _frames(text: str) -> dict[str, str]:
    """The tables at a program's head, joined: stack_frame_id -> 'file function'."""

    def table(name: str) -> dict[str, str]:
        rows = text.partition(f"\n{name}\n")[2].partition("\n\n")[0].splitlines()
        return dict(row.split(" ", 1) for row in rows)

    def number(row: str, name: str) -> str:
        found = re.search(rf"{name}=(\d+)", row)
        return found[1] if found else ""

    files, functions, places = map(table, ("FileNames", "FunctionNames", "FileLocations"))
    found = {}
    for frame, row in table("StackFrames").items():
        place = places.get(number(row, "file_location_id"), "")
        file = files.get(number(place, "file_name_id"), "").strip('"')
        function = functions.get(number(place, "function_name_id"), "").strip('"')
        found[frame] = f"{file} {function}"
    return found


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """'(f32[64]{0}, bf16[2,3]{1,0})' -> [('f32', (64,)), ('bf16', (2, 3))]."""
    found = re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", shape)
    return [(dtype, tuple(int(n) for n in sides.split(",") if n)) for dtype, sides in found]


def bytes_of(shape: str) -> int:
    """The bytes of an array or of a tuple of arrays; a pred takes one byte."""
    total = 0
    for dtype, sides in arrays(shape):
        bits = int(found[0]) if (found := re.search(r"\d+", dtype)) else 8
        total += math.prod(sides) * bits // 8
    return total


def executed(
    program: Program, computation: str = "", times: int = 1
) -> Iterator[tuple[Instruction, int]]:
    """Yields (instruction, how often it runs) of all that cost anything, in order.

    A loop's body counts as often as the compiler knows, or once; a conditional counts as its branch
    that moves the most bytes. The second half of an asynchronous pair is left out.
    """

    def moves(name: str) -> int:
        return sum(i.moved_bytes * n for i, n in executed(program, name))

    for i in program.computations[computation or program.entry]:
        if i.opcode == "while":
            known = i.attribute(r'"known_trip_count":\{"n":"(\d+)"')
            yield from executed(program, i.attribute(r"body=%([\w.\-]+)"), times * int(known or 1))
        elif i.opcode == "call":
            yield from executed(program, i.attribute(r"to_apply=%([\w.\-]+)"), times)
        elif i.opcode == "conditional":
            named = re.findall(r"%([\w.\-]+)", i.attributes.partition("), ")[2])
            branches = [name for name in named if name in program.computations]
            yield from executed(program, max(branches, key=moves), times)
        elif i.opcode not in _FREE and not i.opcode.endswith("-done"):
            yield i, times


def flops(program: Program, instruction: Instruction) -> int:
    """Twice the multiply-adds of the convolutions and products in an instruction.

    Multiply-adds on padding are not counted.
    """
    return sum(_flops(inside) for inside in program.inside(instruction))


def _flops(i: Instruction) -> int:
    target = i.attribute(r'custom_call_target="([^"]*)"')
    shapes = [array[1] for s in (*i.operands, i.shape) for array in arrays(s)[:1]]
    if i.opcode == "convolution":
        return _convolution_flops(i, shapes[0], shapes[1], shapes[-1])
    if (cudnn := target.removeprefix("__cudnn$")) in _CUDNN:
        return _convolution_flops(i, *(shapes[n] for n in _CUDNN[cudnn]))
    if i.opcode == "dot" or target.startswith("__cublas$"):
        summed = i.attribute(r"lhs_contracting_dim(?:ension)?s\"?[=:][\[{]([^\]}]*)")
        sides = (shapes[0][int(n)] for n in re.findall(r"\d+", summed))
        return 2 * math.prod(shapes[-1]) * math.prod(sides)
    return 0


def _convolution_flops(
    i: Instruction, image: tuple[int, ...], kernel: tuple[int, ...], output: tuple[int, ...]
) -> int:
    labels = re.split("_|->", i.attribute(r"dim_labels=([\w>-]+)"))
    x, k, y = (
        dict(zip(label, sides, strict=True))
        for label, sides in zip(labels, (image, kernel, output), strict=True)
    )
    window = i.attribute(r"window=\{([^}]*)\}")
    grid = [d for d in y if d.isdigit()]

    def of_window(name: str, default: str) -> list[str]:
        found = re.search(rf"{name}=(\S+)", window)
        return found[1].split("x") if found else [default] * len(grid)

    strides, dilated, holes = (
        [int(n) for n in of_window(name, "1")] for name in ("stride", "rhs_dilate", "lhs_dilate")
    )
    pads = [int(pad.split("_")[0]) for pad in of_window("pad", "0_0")]
    total = 2 * y["b"] * y["f"] * k["i"]
    for d in grid:
        n = int(d)
        places = np.arange(y[d])[:, None] * strides[n] + np.arange(k[d]) * dilated[n] - pads[n]
        inside = (places >= 0) & (places <= (x[d] - 1) * holes[n]) & (places % holes[n] == 0)
        total *= int(inside.sum())
    return total


def collectives(program: Program) -> list[dict[str, Any]]:
    """[{'kind', 'dtype', 'bytes': the input of one device, 'count': the number of collectives}].

    A collective with arrays of two dtypes counts in the rows of both.
    """
    sent: dict[tuple[str, str], int] = collections.defaultdict(int)
    count: dict[tuple[str, str], int] = collections.defaultdict(int)
    for i, times in executed(program):
        if kind := collective(i):
            given = [array for shape in i.operands for array in arrays(shape)]
            for dtype in {dtype for dtype, _ in given}:
                count[kind, dtype] += times
            for dtype, sides in given:
                sent[kind, dtype] += times * bytes_of(f"{dtype}[{','.join(map(str, sides))}]")
    rows = [
        {"kind": kind, "dtype": dtype, "bytes": sent[kind, dtype], "count": count[kind, dtype]}
        for kind, dtype in count
    ]
    return sorted(rows, key=lambda row: -row["bytes"])


def collective(i: Instruction) -> str:
    """The collective, such as 'all-reduce', that an instruction is or begins; else ''."""
    kind = i.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else ""


def layer(path: str, layers: set[str]) -> str:
    """'jit(f)/transpose(jvp(GoogLeNet))/3a/1x1/Conv_0/dot_general' -> '3a/1x1' of `layers`.

    If `layers` lacks that name, it is '3a'.
    """
    if not path:
        return BETWEEN
    _, network, inside = path.partition("GoogLeNet")
    if not network:
        return OUTSIDE
    # jax.checkpoint inserts scopes of its own.
    parts = [p for p in inside.split("/")[1:] if "checkpoint" not in p and "remat" not in p]
    name = "/".join(parts[:2])
    if name in layers:
        return name
    return parts[0] if len(parts) > 1 else "GoogLeNet"
