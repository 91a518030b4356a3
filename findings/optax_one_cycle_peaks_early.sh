#!/usr/bin/env bash
# optax.cosine_onecycle_schedule reaches its peak a step early for many lengths, or without any rise.
#
# Guess: with pct_start=warm_up / steps the peak is at step warm_up.
# Expected: for 29 of 100 steps the highest rate at step 29; for 1 of 49 a rise from peak / 25 at step 0.
# Seen with optax 0.2.8: the schedule takes int(pct_start * steps), and 29 / 100 * 100 is 28.999999999999996 in
# floating point. The peak is at step 28. For 1 of 49 the rise has no step at all: training begins at the full
# rate, which a warm-up is there to prevent. Of all pairs of a warm-up and up to 300 steps 3% are early.
# linear_onecycle_schedule does the same.
# Remedy: pct_start=(warm_up + 0.5) / steps.
# Exit status: 0 if optax still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
cat > peak.py << 'PYTHON'
import numpy as np
import optax

pairs = [(w, n) for n in range(3, 301) for w in range(1, n)]
early = [(w, n) for w, n in pairs if int(w / n * n) < w]


def rates(schedule, warm_up, steps, more=0.0):
    rate = schedule(transition_steps=steps, peak_value=1.0, pct_start=(warm_up + more) / steps)
    return [float(rate(step)) for step in range(steps)]


print(f"optax {optax.__version__}: {len(early)} of {len(pairs)} pairs are rounded down")
cosine = optax.cosine_onecycle_schedule
peak = int(np.argmax(rates(cosine, 29, 100)))
first = rates(cosine, 1, 49)[0]
remedy = int(np.argmax(rates(cosine, 29, 100, more=0.5)))
mended = rates(cosine, 1, 49, more=0.5)[0]
print(f"29 of 100 steps: the peak is at step {peak}; 1 of 49: the first rate is {first:.2f} of the peak")
print(f"with half a step more: step {remedy}, {mended:.2f}")
raise SystemExit(not (peak == 28 and first == 1.0 and remedy == 29 and abs(mended - 0.04) < 1e-6))
PYTHON
JAX_PLATFORMS=cpu venv/bin/python peak.py
echo "as described"
