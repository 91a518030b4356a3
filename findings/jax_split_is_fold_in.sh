#!/usr/bin/env bash
# jax.random.split(key, n)[i] is the same key as jax.random.fold_in(key, i).
#
# Guess: split and fold_in derive keys in different ways, so that a program may split a key for one purpose and
# fold numbers into the same key for another.
# Expected: none of the keys of split(key, 1000) is fold_in(key, i) for an i below 1000.
# Seen with jax 0.10.2, its default threefry keys: all 1000 are equal, index by index, and split(key, 3) is the
# beginning of split(key, 1000). With jax_threefry_partitionable=False, the default of older versions, none is: a
# program that was right there repeats its random numbers today, without a warning. A data pipeline that folds the
# row's number into a step's key, and splits the same key elsewhere, gives row i the numbers of split i.
# Remedy: derive a key for each purpose first, by fold_in of different numbers, and never use the parent again.
# Exit status: 0 if JAX still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat > keys.py << 'PYTHON'
import jax
import numpy as np

N = 1000


def equal() -> int:
    key = jax.random.key(7)
    split = jax.random.key_data(jax.random.split(key, N))
    folded = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i)))(np.arange(N))
    return int((np.asarray(split) == np.asarray(folded)).all(-1).sum())


by_default = equal()
with jax.threefry_partitionable(False):
    before = equal()
first = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(7), 3)))
longer = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(7), N)))[:3]
print(f"jax {jax.__version__}: {by_default} of {N} keys of split equal those of fold_in")
print(f"with jax_threefry_partitionable=False: {before} of {N}")
print(f"split(key, 3) begins split(key, {N}): {(first == longer).all()}")
raise SystemExit(not (by_default == N and before == 0 and (first == longer).all()))
PYTHON
JAX_PLATFORMS=cpu venv/bin/python keys.py
echo "as described"
