#!/usr/bin/env bash
# Flax sums the gradient of a bias in the layer's dtype: with dtype=bfloat16 it stops growing at the 256th term.
#
# Guess: nn.Dense and nn.Conv with dtype=bfloat16 and float32 parameters compute in bfloat16 and sum in float32, as
# matrix products, jnp.sum and nn.BatchNorm do. A bias's gradient is then right up to the rounding of its terms, 0.4%.
# Expected: the mean over 32,768 pixels of a layer's output has a gradient of 1 for the bias.
# Seen with flax 0.12.8 and jax 0.10.2 on a CPU: 0.0078, the sum of 256 terms. The layer casts the bias to bfloat16 and
# adds it, and JAX's gradient of broadcasting is lax.reduce_sum, which, unlike jnp.sum, sums in the dtype of its input.
# The gradient then becomes float32, as if it were exact. With terms of both signs the sum is not cut off but rounded
# at each step. In a program compiled for an H100, which adds bfloat16 itself, these sums are bfloat16 too, in one for
# an A100 float32 (not shown here).
# Remedy: give the layer use_bias=False and add jnp.broadcast_to(bias, y.shape).astype(y.dtype) to its result y: the
# gradient is cast to float32 before it is summed.
# Exit status: 0 if Flax still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
cat > bias.py << 'PYTHON'
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

x = jnp.ones((32, 32, 32, 3))


def gradient(layer):
    variables = layer.init(jax.random.key(0), x)
    total = lambda v: layer.apply(v, x).astype(jnp.float32).mean((0, 1, 2)).sum()
    return jax.jit(jax.grad(total))(variables)["params"]["bias"].tolist()


class Remedy(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(2, use_bias=False, dtype=jnp.bfloat16)(x)
        bias = self.param("bias", nn.initializers.zeros, (2,))
        return y + jnp.broadcast_to(bias, y.shape).astype(y.dtype)


dense = gradient(nn.Dense(2, dtype=jnp.bfloat16))
conv = gradient(nn.Conv(2, (1, 1), dtype=jnp.bfloat16))
print(f"flax {flax.__version__}, jax {jax.__version__}, {jax.default_backend()}: gradients of biases that are 1")
print(f"Dense {dense}, Conv {conv}, float32 Dense {gradient(nn.Dense(2))}, remedy {gradient(Remedy())}")
short = all(g < 0.01 for g in dense + conv)
raise SystemExit(not (short and gradient(Remedy()) == [1.0, 1.0]))
PYTHON
JAX_PLATFORMS=cpu venv/bin/python bias.py
echo "as described"
