#!/usr/bin/env bash
# JAX_PLATFORMS=cuda on a machine without an NVIDIA GPU ends in an AssertionError without a text.
#
# Guess: jax.devices() raises a RuntimeError that names the platform and says what is missing, as for any
# other name in JAX_PLATFORMS.
# Expected: a RuntimeError whose text has "cuda".
# Seen with jax 0.10.2: AssertionError, its text empty. Where no NVIDIA GPU is visible JAX passes the cuda
# backend over without an error, then asserts that some backend became the default one. A program that
# prints the error's text prints nothing; people set the variable in job scripts and land on a machine
# without a GPU. Another absent name does raise the RuntimeError, as shown beside it.
# Exit status: 0 if JAX still behaves so. On a machine with an NVIDIA GPU it shows nothing, and ends with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat > devices.py << 'PYTHON'
import os
import sys

os.environ["JAX_PLATFORMS"] = sys.argv[1]
import jax

try:
    found = jax.devices()
except Exception as error:
    print(f"jax {jax.__version__}: JAX_PLATFORMS={sys.argv[1]}: {type(error).__name__}({error})"[:160])
else:
    print(found)
PYTHON
for platform in cuda tpu_of_mine; do
  venv/bin/python devices.py "$platform" 2> /dev/null | tee "$platform.txt"
done
grep -q "AssertionError()" cuda.txt
grep -q "RuntimeError(.*tpu_of_mine" tpu_of_mine.txt
echo "as described"
