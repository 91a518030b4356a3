#!/usr/bin/env bash
# Importing submitit ends the log files that the program has open.
#
# Guess: an import does not touch the program's logging handlers.
# Expected: w.log and a.log contain 'before' and 'after'.
# Seen with submitit 1.5.4 on Python 3.11: w.log contains only 'before', and no error appears.
# submitit/core/logger.py calls logging.config.dictConfig at import, which shuts down every handler of the
# process. A FileHandler of mode 'w' stays attached to the root logger and drops all later records; a
# handler of mode 'a' reopens its file. SUBMITIT_LOG_LEVEL=NOCONFIG, set before the import, avoids it.
# Exit status: 0 if submitit still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check submitit==1.5.4
cat > log.py << 'PYTHON'
import logging
import pathlib
import sys

for mode in ("w", "a"):
    logging.getLogger().addHandler(logging.FileHandler(f"{mode}.log", mode=mode))
logging.getLogger().setLevel(logging.INFO)
logging.info("before")
import submitit

logging.info("after")
found = {mode: pathlib.Path(f"{mode}.log").read_text().split() for mode in ("w", "a")}
print(f"python {sys.version.split()[0]}, submitit {submitit.__version__}: {found}")
sys.exit(found != {"w": ["before"], "a": ["before", "after"]})
PYTHON
venv/bin/python log.py
SUBMITIT_LOG_LEVEL=NOCONFIG venv/bin/python log.py && exit 1
echo "as described"
