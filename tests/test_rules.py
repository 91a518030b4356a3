"""The rules of the house that no linter knows: who imports whom, where what is said."""

import ast
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
FILES = [*ROOT.glob("inception/**/*.py"), ROOT / "launch.py", *ROOT.glob("experiments/*.py")]


def imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def siblings(name: str) -> set[str]:
    """Modules of the package that a file imports; UserError is the package's own."""
    found = {i for i in imports(ROOT / name) if i.startswith("inception.")}
    return {re.sub(r"^inception\.(data\.\w+|\w+).*", r"\1", i) for i in found} - {
        "UserError",
        "Interrupted",
    }


def test_the_leaves_import_no_sibling() -> None:
    for leaf in ("ops", "optim", "pixels"):
        assert siblings(f"inception/{leaf}.py") == set(), leaf
    assert siblings("inception/runtime/checkpoint.py") == {"processes", "data.paths"}
    for path in (ROOT / "inception/data").glob("*.py"):
        inside = siblings(str(path.relative_to(ROOT)))
        assert all(s.startswith("data") for s in inside), path


def test_the_model_imports_ops_alone() -> None:
    assert siblings("inception/model.py") == {"ops"}


def test_nothing_imports_launch() -> None:
    for path in FILES:
        assert not any(i.split(".")[0] == "launch" for i in imports(path))


def test_experiments_import_ml_collections_and_each_other_alone() -> None:
    for path in (ROOT / "experiments").glob("*.py"):
        others = {i for i in imports(path) if i.split(".")[0] not in sys.stdlib_module_names}
        allowed = r"(ml_collections|experiments|inception\.config)\b"
        assert all(re.match(allowed, i) for i in others), others


def only(pattern: str, *allowed: str) -> None:
    users = {
        str(p.relative_to(ROOT)) for p in FILES if any(re.match(pattern, i) for i in imports(p))
    }
    assert users <= set(allowed), users


def test_each_heavy_library_has_one_place() -> None:
    only("orbax", "inception/runtime/checkpoint.py")
    only("absl.flags|argparse|ml_collections.config_flags", "launch.py", "inception/config.py")
    only("tensorflow$|tensorflow\\.")
    only("jax.sharding", "inception/runtime/sharding.py")
    only("matplotlib", "inception/reporting/figures.py")
    only("optuna", "inception/sweeps/search.py", "inception/sweeps/importance.py")
    only("submitit", "inception/launching/slurm.py")
    only("sky$|sky\\.", "inception/launching/sky.py")
    for path in (ROOT / "inception/data").glob("*.py"):
        assert not any(i.split(".")[0] in ("jax", "flax") for i in imports(path)), path


def test_public_functions_and_classes_have_docstrings() -> None:
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
            if public and path.name != "launch.py" and node.name != "get_config":
                assert ast.get_docstring(node), f"{path}: {node.name}"
