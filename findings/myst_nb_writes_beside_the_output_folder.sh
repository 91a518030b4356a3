#!/usr/bin/env bash
# myst-nb 1.4.0 (Sphinx 9.0.4) writes a folder `jupyter_execute` beside Sphinx's output folder.
# Expected: with `sphinx-build docs site`, all that is written lies in `site`, the more so with
#   nb_execution_mode = "off", which executes nothing.
# Seen: the notebook's code and its stored pictures appear in `jupyter_execute`, next to `site`, so that a build
#   from a checkout's root leaves files there for linters and `git add`.
# Remedy: build one folder deeper, as in `site/html`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check sphinx==9.0.4 myst-nb==1.4.0 pillow==13.0.0
mkdir docs
printf 'extensions = ["myst_nb"]\nnb_execution_mode = "off"\n' > docs/conf.py
env/bin/python - << 'PY'
import base64, io, nbformat
from PIL import Image
data = io.BytesIO()
Image.new("RGB", (4, 4), "red").save(data, "PNG")
picture = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(data.getvalue()).decode()})
cell = nbformat.v4.new_code_cell("picture", outputs=[picture])
title = nbformat.v4.new_markdown_cell("# A notebook")
nbformat.write(nbformat.v4.new_notebook(cells=[title, cell]), "docs/index.ipynb")
PY
env/bin/python -m sphinx --quiet --builder html docs site
echo "beside docs and site: $(find . -maxdepth 1 -mindepth 1 ! -name env ! -name docs ! -name site)"
find . -path './env' -prune -o -path './site' -prune -o -type f -print | sort
test -d jupyter_execute && test ! -e site/jupyter_execute
echo "as described: jupyter_execute lies beside the output folder"
