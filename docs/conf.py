"""The site of docs/: `make docs`."""

from sphinx.application import Sphinx
from sphinx.util import logging

import inception

project = "GoogLeNet in JAX"
release = version = inception.__version__
html_title = f"{project} {release}"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/test_tour.py runs the notebook
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
html_theme = "furo"
html_show_sourcelink = False


def require_docstring(_app, what: str, name: str, obj: object, _options, lines: list[str]) -> None:
    """Warns, which ends `make docs`, of a public class or function without a docstring."""
    documented = what in ("module", "class", "function", "method", "exception")
    own = getattr(obj, "__module__", name).startswith("inception")
    if documented and own and not lines:
        logging.getLogger(__name__).warning("%s has no docstring", name)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", require_docstring, priority=1)
