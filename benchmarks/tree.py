"""The size of the code: its longest functions and files, and the files that a training run loads.

    python benchmarks/tree.py            # also trains a tiny network, to see which files it loads

All lines of a file count: docstrings, comments and blank lines too. tests/test_rules.py sets the
limits.
"""

import ast
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
TRAIN = (
    "train", "--config=experiments/digits.py", "--config.model.width=0.05",
    "--config.model.norm=none", "--config.model.heads=false", "--config.input_px=33",
    "--config.data.resize_px=33", "--config.model.classes=3",
    "--config.data.source=synthetic", "--config.data.examples=32",
    "--config.optim.batch_size=16", "--config.optim.epochs=1.", "--config.run.eval_batch_size=16",
)  # fmt: skip
# Runs in the process that trains: prints the files of its modules when it begins to load the page,
# and at its end. The experiment's own file runs by its path and is not a module. Two modules of
# Table 1 load the same files as nine, and compile sooner.
LOADED = """
import json, pathlib, sys
import launch
from inception.model import TABLE_1
for row in list(TABLE_1)[1:-1]:
    del TABLE_1[row]
def files():
    return [m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "inception.reporting.page":
            steps.extend(files())
steps = []
sys.meta_path.insert(0, Watch)
assert launch.main(json.loads(sys.argv[1])) == 0
print(json.dumps([steps, files()]))
"""
OF_CPUS = "inception/kernels/cpu.py"


def sources() -> list[pathlib.Path]:
    """The project's own files, except tests and benchmarks."""
    found = [*ROOT.glob("inception/**/*.py"), *ROOT.glob("experiments/*.py"), ROOT / "launch.py"]
    return sorted(found)


def lines(path: pathlib.Path) -> int:
    return len(path.read_text().splitlines())


def functions(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(lines, 'file:line name') of every function, signature and docstring included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            yield node.end_lineno - node.lineno + 1, where  # type: ignore[operator]


def loaded_by_a_run() -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The project's files that a training run loads (for its steps, only for its page)."""
    with tempfile.TemporaryDirectory() as folder:
        argv = json.dumps([*TRAIN, f"--workdir={folder}/run"])
        run = subprocess.run(
            [sys.executable, "-c", LOADED, argv], cwd=ROOT, capture_output=True, text=True
        )
        if run.returncode:
            sys.exit(run.stderr)
    steps, all_files = json.loads(run.stdout.splitlines()[-1])
    own = set(sources()) - {ROOT / OF_CPUS}
    of_steps = (own & set(map(pathlib.Path, steps))) | {ROOT / "experiments/digits.py"}
    of_page = (own & set(map(pathlib.Path, all_files))) - of_steps
    return sorted(of_steps), sorted(of_page)


def main() -> None:
    """Prints the longest functions and files, and the files of a run."""
    files = sources()
    print("longest functions")
    for count, where in sorted((f for path in files for f in functions(path)), reverse=True)[:5]:
        print(f"{count:>7}  {where}")
    print("longest files")
    for count, path in sorted(((lines(path), path) for path in files), reverse=True)[:5]:
        print(f"{count:>7}  {path.relative_to(ROOT)}")
    total = sum(lines(p) for p in files if p.is_relative_to(ROOT / "inception"))
    print(f"{total:>7}  inception/ in all")
    steps, page = loaded_by_a_run()
    for what, paths in (("a training run loads", steps), ("and at its end, for its page,", page)):
        print(f"{what} {len(paths)} files, {sum(map(lines, paths))} lines")
        for path in paths:
            print(f"{lines(path):>7}  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
