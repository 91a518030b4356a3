#!/usr/bin/env bash
# An ArrayRecord file that was cut between two 64 KiB blocks opens, and its records are empty.
#
# Guess: a reader of a truncated file raises an error about the truncation, wherever the cut is.
# Expected: the same as for a cut inside a block: RuntimeError, with the fault and its place.
# Seen with array_record 0.8.6: the reader opens a file that was cut at a multiple of 65,536 bytes, where
# an interrupted copy often ends. num_records() is 0. read() of the lost records 3 and 4 returns two empty
# byte strings. ok() is false, but programs rarely call it. close() and ArrayRecordDataSource raise
# RuntimeError with an empty message, so a check that prints the error's text prints nothing.
# Remedy: compare num_records() with the count that was stored when the file was written.
# Exit status: 0 if array_record still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check array_record==0.8.6
cat > cut.py << 'PYTHON'
import importlib.metadata
import pathlib
import random

from array_record.python import array_record_module
from array_record.python.array_record_data_source import ArrayRecordDataSource

BLOCK = 65_536
writer = array_record_module.ArrayRecordWriter("whole.array_record", "group_size:1")
for i in range(50):
    writer.write(random.Random(i).randbytes(2000))
writer.close()
whole = pathlib.Path("whole.array_record").read_bytes()


def error_of(call):
    try:
        call()
    except RuntimeError as error:
        return f"RuntimeError({str(error)[:40]!r})"
    return "none"


def look(size):
    pathlib.Path("cut.array_record").write_bytes(whole[:size])
    reader = array_record_module.ArrayRecordReader("cut.array_record")
    found = reader.num_records(), reader.read([3, 4]), reader.ok(), error_of(reader.close)
    return *found, error_of(lambda: ArrayRecordDataSource("cut.array_record"))


print("array_record", importlib.metadata.version("array_record"), f"{len(whole)} bytes")
inside = error_of(lambda: look(BLOCK + BLOCK // 2))
print(f"cut inside a block: opening raises {inside}")
records, read, ok, closing, source = look(BLOCK)
print(f"cut between blocks: {records} records, read([3, 4]) = {read}, ok() = {ok}")
print(f"close() raises {closing}, ArrayRecordDataSource {source}")
assert inside != "none" and inside != "RuntimeError('')"
assert (records, read, ok) == (0, [b"", b""], False)
assert closing == source == "RuntimeError('')"
PYTHON
venv/bin/python cut.py
echo "as described"
