"""docs/tour.ipynb, from its first cell to its last, where the extra docs is installed."""

import pathlib
import re

import pytest

nbclient = pytest.importorskip("nbclient", reason="without the extra docs")
nbformat = pytest.importorskip("nbformat")
ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_tour(tmp_path: pathlib.Path) -> None:
    tour = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(tour, timeout=900, resources=place).execute()
    outputs = [o for cell in tour.cells if cell.cell_type == "code" for o in cell.outputs]
    printed = "".join(o.get("text", "") for o in outputs)
    assert "374,784 without reductions, 144,896 with them" in printed
    accuracy = re.search(r"top-1 accuracy (\d+\.\d)% on 360 digits", printed)
    assert accuracy and float(accuracy[1]) > 80
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 3
