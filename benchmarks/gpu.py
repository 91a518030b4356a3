"""Checks correctness on a GPU, then measures speed: one command, at most eight minutes.

    python benchmarks/gpu.py --output=FOLDER [--small] [--steps=environment,rates]

Without a GPU, sizes are small, as with --small. Each step of STEPS has its own seconds, plus what
earlier steps left. FOLDER/gpu.md and gpu.json receive each table as soon as it is known, gpu.log
the output, so a run that is cut off leaves its results. A step that fails adds one line to the
report; the next step runs, and the exit status is 1.

For a machine without a network, with Python 3.12 on x86-64, jax, flax, optax, orbax, torchvision,
OpenCV (61 MB, too large to carry), scikit-learn and matplotlib:

    python benchmarks/gpu.py --pack                     # here: wheels of the rest, in .wheels
    python3 benchmarks/gpu.py --output="$OUT"           # there; git ignores .wheels: carry it too

32 MB with the checkout; allow 500 seconds. Wheels of missing packages are installed there into a
temporary folder.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

sys.path.append(str(pathlib.Path(__file__).parent))  # if another script imports this one
import needs

ROOT = pathlib.Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".wheels"
MOST_MB = 60
PACKED = (  # packages that the steps import and the machine may lack
    "array-record", "attrs", "cloudpickle", "grain", "ml-collections", "nvidia-nvimgcodec-cu13",
    "portpicker", "tabulate", "tensorboardX", "tqdm",
)  # fmt: skip
THERE = ("jax", "flax", "optax", "orbax-checkpoint", "opencv-python-headless", "scikit-learn",
         "matplotlib", *PACKED)  # fmt: skip
BEGINNINGS = {"gpu.md": "# On this machine", "gpu.json": "{", "gpu.log": "\n== "}
STEPS = {  # name: seconds
    "environment": 12, "correctness": 85, "rates": 200, "layers": 65, "stores": 70, "demo": 48,
}  # fmt: skip
SLOWER = 10  # factor on the seconds, on a CPU


class Sizes(NamedTuple):
    """Sizes in px; batches and sets in images; knobs as on the command line."""

    px: int
    checked: int  # the batch of the compared step
    evaluated: int  # not a multiple of the batch
    batch: int
    waves: tuple[tuple[int, ...], ...]  # batches whose programs are compiled at once
    turns: dict[str, Any]  # rounds, and about the seconds of a turn
    photos: int
    steps: int
    knobs: tuple[str, ...] = ()
    demo: tuple[str, ...] = ()


FULL = Sizes(
    px=224,
    checked=16,
    evaluated=1003,
    batch=256,
    waves=((256, 1024), (512, 128)),  # grouped to fit into 80 GB
    turns={"rounds": 5, "seconds": 0.4},
    photos=2560,
    steps=120,
)
SMALL = Sizes(
    px=96,
    checked=2,
    evaluated=21,
    batch=8,
    waves=((4,),),
    turns={"rounds": 2, "seconds": 0.2},
    photos=80,
    steps=8,
    knobs=("--config.model.width=.1", "--config.input_px=96"),
    demo=("--config.model.width=.25", "--config.optim.epochs=1."),
)


def pack() -> None:
    """Downloads the wheels of PACKED; exits if wheels and checkout exceed MOST_MB."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line.split(";")[0] for line in lines if line.split("==")[0] in PACKED]
    shutil.rmtree(WHEELS, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17)]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12", *platforms]
    pip = [sys.executable, "-m", "pip", "download", *options, f"--dest={WHEELS}"]
    subprocess.run([*pip, *pins], check=True)
    wheels = [path.stat().st_size for path in WHEELS.iterdir()]
    archive = subprocess.run(["git", "archive", "HEAD"], check=True, cwd=ROOT, capture_output=True)
    total = (sum(wheels) + len(archive.stdout)) / 1e6
    print(f"{len(wheels)} wheels, {sum(wheels) / 1e6:.1f} MB; {total:.1f} MB with the checkout")
    if total > MOST_MB:
        raise SystemExit(f"more than {MOST_MB} MB: too large to carry")


def install(site: str) -> None:
    """Installs the packed wheels that this Python lacks, and prints their names."""
    missing = []
    for wheel in sorted(WHEELS.glob("*.whl")):
        try:
            importlib.metadata.version(wheel.name.split("-")[0])
        except importlib.metadata.PackageNotFoundError:
            missing.append(wheel)
    if missing:
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", f"--target={site}"]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *missing], check=True)
        print("installed from .wheels:", *(wheel.name.split("-")[0] for wheel in missing))


def as_markdown(table: dict[str, Any]) -> str:
    """{'title', 'rows': [{column: value}]} as a table."""
    from tabulate import tabulate  # may be one of the wheels

    return f"{table['title']}\n\n{tabulate(table['rows'], 'keys', 'github', '.4g')}"


def write(steps: dict[str, dict[str, Any]], folder: pathlib.Path) -> None:
    """Writes every table so far to gpu.json and gpu.md."""
    lines = ["# On this machine"]
    for name, step in steps.items():
        lines.append(f"## {name}: {step['seconds']:.0f} s")
        lines += [f"**Failed**: {step['failed']}"] if step["failed"] else []
        lines += map(as_markdown, step["tables"])
    (folder / "gpu.md").write_text("\n\n".join(lines) + "\n")
    (folder / "gpu.json").write_text(json.dumps(steps, indent=1) + "\n")


def run_step(
    name: str, seconds: float, small: bool, steps: dict[str, dict[str, Any]], folder: pathlib.Path
) -> None:
    """Runs a step in its own process; after `seconds`, kills it and its children."""
    step = steps[name] = {"seconds": 0.0, "failed": "", "tables": []}
    start, log, cut = time.monotonic(), folder / "gpu.log", threading.Event()
    with log.open("a") as stderr, tempfile.TemporaryDirectory() as scratch:
        stderr.write(f"\n== {name}\n")
        stderr.flush()
        child = [sys.executable, __file__, f"--child={name}", f"--output={scratch}"]
        process = subprocess.Popen(
            [*child, *["--small"] * small],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

        def end() -> None:
            cut.set()
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(max(1.0, seconds), end)
        timer.start()
        assert process.stdout
        for table in map(json.loads, process.stdout):
            same = [t for t in step["tables"] if t["title"] == table["title"]]
            if same:
                same[0]["rows"] += table["rows"]
            else:
                step["tables"].append(table)
            print(f"\n{as_markdown(table)}", flush=True)
            write(steps, folder)
        status = process.wait()
        timer.cancel()
    step["seconds"] = time.monotonic() - start
    if status:
        said = log.read_text(errors="replace").partition(f"\n== {name}\n")[2].split("\n")
        last = next((line for line in reversed(said) if line.strip()), f"exit status {status}")
        step["failed"] = f"cut off after {step['seconds']:.0f} s" if cut.is_set() else last
        print(f"\n{name} failed: {step['failed']}", flush=True)
    write(steps, folder)


def run_child(name: str, small: bool, scratch: pathlib.Path) -> None:
    """Runs a step; prints one JSON object per table to stdout, all other output to stderr."""
    import gpu_checks
    import gpu_speed

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(title: str, *rows: dict[str, Any]) -> None:
        answers.write(json.dumps({"title": title, "rows": rows}) + "\n")
        answers.flush()

    step = getattr(gpu_checks if name == "correctness" else gpu_speed, name)
    if wrong := step(SMALL if small else FULL, tell, scratch):
        raise SystemExit("; ".join(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--steps", default=",".join(STEPS), help="default: all")
    parser.add_argument("--small", action="store_true", help="small sizes, as without a GPU")
    parser.add_argument("--pack", action="store_true", help="only download the wheels")
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    names, small = args.steps.split(","), args.small or not shutil.which("nvidia-smi")
    if unknown := set(names) - STEPS.keys():
        parser.error(f"--steps: {', '.join(sorted(unknown))}: choose from {', '.join(STEPS)}")
    if args.pack or args.child:
        pack() if args.pack else run_child(args.child, small, args.output)
        return 0
    for name, beginning in BEGINNINGS.items():
        file = args.output / name
        if file.exists() and not (file.read_text(errors="replace") or beginning).startswith(
            beginning
        ):
            parser.error(f"{file} was written by something else: give another --output")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "gpu.log").write_text("")
    steps: dict[str, dict[str, Any]] = {}
    budget, start = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        install(site := f"{folder}/site")
        sys.path.append(site)
        needs.packages("", *THERE)
        path = [site, str(ROOT), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/cache"  # for autotuning too
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # processes share the GPU's memory
        for name in names:
            budget += STEPS[name] * (SLOWER if small else 1)
            run_step(name, budget - (time.monotonic() - start), small, steps, args.output)
    print(f"\n{time.monotonic() - start:.0f} s in all: {args.output}/gpu.md", flush=True)
    return int(any(step["failed"] for step in steps.values()))


if __name__ == "__main__":
    sys.exit(main())
