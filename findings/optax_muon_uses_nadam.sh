#!/usr/bin/env bash
# optax.contrib.muon trains its other parameters with NAdam, not with the AdamW that it documents.
#
# Guess: parameters that are no matrices, biases and scales, get optax.adamw's update, as the docstring says.
# Expected: for a vector the same updates as optax.adamw(rate, b1=0.9, b2=0.999, weight_decay=0).
# Seen with optax 0.2.8: nesterov=True, the default, is meant for Muon's momentum and is also given to the AdamW
# of the others: their updates are NAdam's, in the first step 1.47 times AdamW's of the same rate. nesterov=False makes them AdamW's, and takes Nesterov's momentum from Muon as well. A recipe whose rate for
# biases was found with AdamW is another one here.
# Remedy: combine optax.contrib.scale_by_muon and optax.adamw with optax.partition, or find the rate anew.
# Exit status: 0 if optax still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
cat > vector.py << 'PYTHON'
import jax.numpy as jnp
import numpy as np
import optax

params = {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}
grads = {"kernel": jnp.eye(3), "bias": jnp.array([1.0, -2.0, 3.0])}


def bias_updates(tx, steps=3):
    state, found = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        found.append(np.asarray(updates["bias"]))
    return np.stack(found)


muon = bias_updates(optax.contrib.muon(0.1))
adamw = bias_updates(optax.adamw(0.1, weight_decay=0.0))
nadam = bias_updates(optax.nadam(0.1))
plain = bias_updates(optax.contrib.muon(0.1, nesterov=False))
print(f"optax {optax.__version__}: first update of a bias: muon {muon[0]}, adamw {adamw[0]}, nadam {nadam[0]}")
is_nadam, is_adamw = (np.allclose(muon, other, rtol=1e-4) for other in (nadam, adamw))
print(f"muon's is NAdam's: {is_nadam}, AdamW's: {is_adamw}; with nesterov=False AdamW's: {np.allclose(plain, adamw, rtol=1e-4)}")
raise SystemExit(not (is_nadam and not is_adamw and np.allclose(plain, adamw, rtol=1e-4)))
PYTHON
JAX_PLATFORMS=cpu venv/bin/python vector.py
echo "as described"
