"""The rules of the house that no linter knows: who imports whom, what is said where, how long."""

import ast
import functools
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

from benchmarks import tree

ROOT = tree.ROOT
FILES = tree.sources()
CORE = (
    "model", "ops", "kernels", "step", "colors", "pixels", "optim", "mixing", "optimizers",
)  # fmt: skip
# Each imports from itself and from those before it.
ORDER = (
    "core", "data", "runtime", "evaluation", "inspection", "reporting", "train", "launching",
    "formats", "tools", "sweeps", "cli",
)  # fmt: skip
SEES_CONFIG = ("train.py", "config.py", "data/pipeline.py", "evaluation/", "reporting/", "tools/",
               "sweeps/", "cli/")  # fmt: skip


@functools.cache
def imports(path: pathlib.Path) -> set[str]:
    """Dotted names of what a file imports, wherever it does; 'from a import b' is 'a.b'."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def folder(dotted: str) -> str:
    """'inception.data.paths.at' -> 'data'; of a core module 'core'; of inception's own names ''."""
    parts = dotted.split(".")[1:]
    if not parts or parts[0] in ("UserError", "Interrupted"):
        return ""
    return "core" if parts[0] in CORE else parts[0]


def own_folder(path: pathlib.Path) -> str:
    return folder(".".join(path.relative_to(ROOT).with_suffix("").parts))


def siblings(path: pathlib.Path) -> set[str]:
    """The folders of the package that a file imports from."""
    return {folder(i) for i in imports(path) if i.startswith("inception.")} - {""}


def test_folders_import_those_before_them_alone() -> None:
    for path in FILES:
        own = own_folder(path)
        if own in ("", "config", "knobs") or path.parent.name == "experiments":
            continue
        for other in siblings(path) - {"config", "knobs"}:
            assert ORDER.index(other) <= ORDER.index(own), f"{path} imports {other}"


def test_the_core_imports_the_core_alone() -> None:
    for path in (p for p in FILES if own_folder(p) == "core"):
        inside = {i for i in imports(path) if i.startswith("inception")}
        names = {i.removeprefix("inception.").split(".")[0] for i in inside}
        assert names <= set(CORE), f"{path}: {names}"


def test_data_imports_no_jax() -> None:
    for path in (p for p in FILES if own_folder(p) == "data"):
        assert not any(i.split(".")[0] in ("jax", "flax", "optax") for i in imports(path)), path


def test_few_see_a_config() -> None:
    for path in FILES:
        name = str(path.relative_to(ROOT)).removeprefix("inception/")
        if name.startswith(("experiments/", *SEES_CONFIG)):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                knob = node.value.id == "config" and node.attr not in dir(dict)  # config.json's
                assert not knob, f"{path}:{node.lineno}"


def test_nothing_imports_the_command_line() -> None:
    for path in FILES:
        if own_folder(path) != "cli" and path.name != "launch.py":
            found = {i for i in imports(path) if re.match(r"launch\b|inception\.cli\b", i)}
            assert not found, f"{path}: {found}"


def test_experiments_import_ml_collections_the_knobs_and_each_other_alone() -> None:
    for path in (ROOT / "experiments").glob("*.py"):
        others = {i for i in imports(path) if i.split(".")[0] not in sys.stdlib_module_names}
        assert all(
            re.match(r"ml_collections|inception\.(config|knobs)|experiments", i) for i in others
        )


def only(pattern: str, *allowed: str) -> None:
    users = {
        str(p.relative_to(ROOT)) for p in FILES if any(re.match(pattern, i) for i in imports(p))
    }
    assert all(user.startswith(allowed) for user in users), users


def test_each_heavy_library_has_one_home() -> None:
    only("orbax", "inception/runtime/checkpoint")
    only("argparse", "inception/cli/")
    only("absl.flags|ml_collections.config_flags", "inception/config.py")
    only("tensorflow$|tensorflow\\.", "nowhere")
    only("matplotlib", "inception/reporting/figures.py")
    only("optuna", "inception/sweeps/")
    only("submitit", "inception/launching/slurm.py")
    only("sky$|sky\\.", "inception/launching/sky.py")


def identifiers(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(line, name) of every attribute, keyword argument and imported name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.value.lineno, node.arg
        elif isinstance(node, ast.ImportFrom) and not f"{node.module}".startswith("inception"):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_one_file_says_how_arrays_lie_on_devices() -> None:
    """The others call its functions: none of JAX's own names for it, imported or used."""
    says = re.compile(r"Sharding|shardings?\b|PartitionSpec|device_put|make_array_from")
    for path in FILES:
        if path != ROOT / "inception/runtime/sharding.py":
            for line, name in identifiers(path):
                assert not says.search(name), f"{path}:{line}: {name}"


def test_no_function_is_over_60_lines_and_no_file_over_300() -> None:
    assert [f for path in FILES for f in tree.functions(path) if f[0] > 60] == []
    assert [(path, n) for path in FILES if (n := tree.lines(path)) > 300] == []


@pytest.mark.slow
def test_a_training_run_loads_few_files() -> None:
    """Of inception/ at most 30; the lines are those of launch.py too."""
    files, _page = tree.loaded_by_a_run()
    files = [path for path in files if path.parent.name != "experiments"]
    assert len(files) - 1 <= 30 and sum(map(tree.lines, files)) <= 5500, files


def test_public_functions_and_classes_have_docstrings() -> None:
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            # A command's `run` and `add_flags` are described by its module and its help.
            of_command = own_folder(path) == "cli" and getattr(node, "name", "") in (
                "run",
                "add_flags",
            )
            if public and not of_command and node.name not in ("get_config", "__getattr__"):
                assert ast.get_docstring(node), f"{path}: {node.name}"
