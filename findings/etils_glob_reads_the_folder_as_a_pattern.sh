#!/usr/bin/env bash
# epath.Path.glob takes the path itself for a part of the pattern.
#
# Guess: epath.Path(folder).glob(pattern) finds what pathlib's does, as epath.Path stands for it.
# Expected: metrics.jsonl by both, whatever the folder is called.
# Seen with etils 1.15.0: in a folder called "rate[.1]", as people call runs after their knobs, epath
# finds nothing, without a word, while iterdir() and exists() see the file. etils joins folder and
# pattern and calls glob.glob on both. A check such as "has this run begun?" then says no.
# Exit status: 0 if this is still so.
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
