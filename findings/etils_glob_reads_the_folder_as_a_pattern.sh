#!/usr/bin/env bash
# epath.Path.glob treats the path itself as a part of the pattern.
#
# Guess: epath.Path(folder).glob(pattern) finds the same files as pathlib, which epath.Path replaces.
# Expected: both find metrics.jsonl, whatever the folder's name.
# Seen with etils 1.15.0: in a folder named "rate[.1]", as runs are often named after their knobs, epath
# finds nothing and raises nothing, while iterdir() and exists() see the file. etils joins folder and
# pattern and calls glob.glob on the result. A check such as "has this run begun?" then returns no.
# Exit status: 0 if etils still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check etils==1.15.0 \
  fsspec==2026.9.0 importlib_resources==6.5.2 typing_extensions==4.16.0 zipp==4.1.2
cat > find.py << 'PYTHON'
import importlib.metadata
import pathlib
import sys

from etils import epath

for name, seen in (("rate", ["metrics.jsonl"]), ("rate[.1]", [])):
    run = pathlib.Path(name)
    run.mkdir()
    (run / "metrics.jsonl").touch()
    by_pathlib = [path.name for path in run.glob("*.jsonl")]
    by_epath = [path.name for path in epath.Path(name).glob("*.jsonl")]
    listed = [path.name for path in epath.Path(name).iterdir()]
    version = importlib.metadata.version("etils")
    print(f"etils {version}: {name}: pathlib {by_pathlib}, epath {by_epath}, iterdir {listed}")
    if (by_pathlib, by_epath, listed) != (["metrics.jsonl"], seen, ["metrics.jsonl"]):
        sys.exit(1)
PYTHON
venv/bin/python find.py
echo "as described"
