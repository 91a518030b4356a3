"""What the project does on a GPU: right first, then fast. One command, at most eight minutes.

    python benchmarks/gpu.py --output=FOLDER            # on a CPU, or with --small, at small sizes
    python benchmarks/gpu.py --output=FOLDER --steps=environment,rates

Each step of STEPS has seconds of its own, and what earlier ones left. FOLDER/gpu.md and gpu.json
take each table when it is known, gpu.log what was printed, so a run that is cut off leaves what it
found. A step that fails says so in a line, the next goes on, and the exit status is 1.

For a machine without a network, with Python 3.12 on x86-64, jax, flax, optax, orbax, torchvision,
OpenCV, scikit-learn and matplotlib:

    python benchmarks/gpu.py --pack                     # here: wheels of the rest, in .wheels
    python3 benchmarks/gpu.py --output="$OUT"           # there; git ignores .wheels: carry it too

About 32 MB with the checkout; allow 500 seconds. Wheels of what is missing there are installed into
a temporary folder.
"""

import argparse
import importlib.metadata
import importlib.util
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
from typing import Any

import gpu_checks

ROOT = pathlib.Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".wheels"
MOST_MB = 60
PACKED = (  # what the steps import and the machine lacks, or may lack
    "array-record", "attrs", "cloudpickle", "grain", "ml-collections", "nvidia-nvimgcodec-cu13",
    "portpicker", "tabulate", "tensorboardX", "tqdm",
)  # fmt: skip
STEPS = {  # name: seconds
    "environment": 15, "correctness": 95, "rates": 200, "layers": 50, "stores": 75, "demo": 40,
}  # fmt: skip
SLOWER = 10  # times the seconds, at small sizes on few cores


def pack() -> None:
    """Downloads the wheels of PACKED; exits where they and the checkout are over MOST_MB."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line.split(";")[0] for line in lines if line.split("==")[0] in PACKED]
    shutil.rmtree(WHEELS, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17)]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12", *platforms]
    pip = [sys.executable, "-m", "pip", "download", *options, f"--dest={WHEELS}"]
    subprocess.run([*pip, *pins], check=True)
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    checkout = [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    wheels = sorted(WHEELS.iterdir())
    sizes = [sum(path.stat().st_size for path in paths) / 1e6 for paths in (wheels, checkout)]
    print(f"{len(wheels)} wheels {sizes[0]:.1f} MB, checkout {sizes[1]:.1f} MB, most {MOST_MB} MB")
    if sum(sizes) > MOST_MB:
        raise SystemExit("too large to carry")


def install(site: pathlib.Path) -> list[str]:
    """Installs of the packed wheels those that this Python lacks; returns their names."""
    missing = []
    for wheel in sorted(WHEELS.glob("*.whl")):
        try:
            importlib.metadata.version(wheel.name.split("-")[0])
        except importlib.metadata.PackageNotFoundError:
            missing.append(wheel)
    if missing:
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", f"--target={site}"]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *missing], check=True)
    return [wheel.name.split("-")[0] for wheel in missing]


class Report:
    """Tables by step, written whenever one is added."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.steps: dict[str, dict[str, Any]] = {}

    def add(self, step: str, table: dict[str, Any]) -> None:
        """Rows under a title; those of a title that the step has already follow its rows."""
        tables = self.steps[step]["tables"]
        same = next((t for t in tables if t["title"] == table["title"]), None)
        if same:
            same["rows"] += table["rows"]
        else:
            tables.append(table)
        print(f"\n{as_markdown(table)}", flush=True)
        self.write()

    def write(self) -> None:
        lines = ["# On this machine"]
        for name, step in self.steps.items():
            lines.append(f"## {name}: {step['seconds']:.0f} s")
            lines += [f"**Failed**: {step['failed']}"] if step["failed"] else []
            lines += map(as_markdown, step["tables"])
        (self.folder / "gpu.md").write_text("\n\n".join(lines) + "\n")
        (self.folder / "gpu.json").write_text(json.dumps(self.steps, indent=1) + "\n")


def as_markdown(table: dict[str, Any]) -> str:
    """{'title', 'rows': [{column: value}]} as a table."""
    columns = list(dict.fromkeys(key for row in table["rows"] for key in row))
    lines = [table["title"], "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in table["rows"]:
        cells = (row.get(column) for column in columns)
        shown = (f"{c:.4g}" if isinstance(c, float) else "" if c is None else str(c) for c in cells)
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def run_step(name: str, seconds: float, small: bool, report: Report) -> None:
    """Runs a step in a process of its own, which ends with all it started after so many seconds."""
    step = report.steps[name] = {"seconds": 0.0, "failed": "", "tables": []}
    start, log = time.monotonic(), report.folder / "gpu.log"
    cut = threading.Event()
    with log.open("a") as stderr, tempfile.TemporaryDirectory() as scratch:
        stderr.write(f"\n== {name}\n")
        begin = stderr.tell()
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
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(max(1.0, seconds), end)
        timer.start()
        assert process.stdout
        for line in process.stdout:
            report.add(name, json.loads(line))
        status = process.wait()
        timer.cancel()
    step["seconds"] = time.monotonic() - start
    if status:
        said = [line for line in log.read_text(errors="replace")[begin:].splitlines() if line]
        last = said[-1] if said else f"exit status {status}"
        step["failed"] = f"cut off after {seconds:.0f} s" if cut.is_set() else last
        print(f"\n{name} failed: {step['failed']}", flush=True)
    report.write()


def child(name: str, small: bool, scratch: pathlib.Path) -> None:
    """A step; stdout takes a JSON object a table, and stderr whatever libraries print."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(title: str, rows: list[dict[str, Any]]) -> None:
        print(json.dumps({"title": title, "rows": rows}), file=answers, flush=True)

    sizes = gpu_checks.SMALL if small else gpu_checks.FULL
    wrong = getattr(gpu_checks, name)(sizes, tell, scratch)
    if wrong:
        raise SystemExit("; ".join(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--steps", default=",".join(STEPS), help="default: all")
    parser.add_argument("--small", action="store_true", help="small sizes; so on a CPU anyway")
    parser.add_argument("--pack", action="store_true", help="only download the wheels")
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = args.steps.split(",")
    if unknown := set(steps) - STEPS.keys():
        parser.error(f"--steps: {', '.join(sorted(unknown))}: choose from {', '.join(STEPS)}")
    if args.pack:
        pack()
        return 0
    if args.child:
        child(args.child, args.small, args.output)
        return 0
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "gpu.log").write_text("")
    report, small, start = Report(args.output), args.small, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if installed := install(pathlib.Path(folder) / "site"):
            print(f"installed from .wheels: {', '.join(installed)}", flush=True)
        path = [f"{folder}/site", str(ROOT), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/cache"  # autotuning's choices too
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # processes share the GPU's memory
        small = small or not shutil.which("nvidia-smi")
        budget = 0.0
        for name in steps:
            budget += STEPS[name] * (SLOWER if small else 1)
            run_step(name, budget - (time.monotonic() - start), small, report)
    print(f"\n{time.monotonic() - start:.0f} s in all; {args.output}/gpu.md", flush=True)
    return int(any(step["failed"] for step in report.steps.values()))


if __name__ == "__main__":
    sys.exit(main())
