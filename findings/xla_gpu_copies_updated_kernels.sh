#!/usr/bin/env bash
# On GPUs, XLA copies an optimizer's update of a convolution's kernel, although its state is donated.
#
# Guess: with donated state, one kernel launch updates momentum and kernel in place.
# Expected: no copy instruction, at least with an optimization_barrier on the gradient.
# Seen with jax 0.10.2, compiled for an H100: cuDNN's gradient of a kernel has a different layout from the
# kernel. XLA transposes it inside the update, which then cannot work in place: both new arrays are
# written elsewhere and copied back. A barrier changes nothing, because layouts pass through it. A layout
# constraint on the gradient before the barrier removes both copies. GoogLeNet's step had 177 copies.
# Needs no GPU, but 400 MB of packages, including the compiler.
# Exit status: 0 if XLA still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 \
  jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2
cat > update.py << 'PYTHON'
import functools
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import SingleDeviceSharding

H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 core_count: 132
shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048
fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536
registers_per_block_limit: 65536 } platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 2 } device_description_str: "NVIDIA H100" """
jax.config.update("jax_platforms", "cpu")
h100 = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
there = SingleDeviceSharding(h100.devices[0])


def loss(kernel, images):
    layouts = ("NHWC", "HWIO", "NHWC")
    kernel = kernel.astype(images.dtype)
    y = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layouts)
    return jnp.square(y.astype(jnp.float32)).mean()


def step(state, images, settle):
    kernel, momentum = state
    momentum = 0.9 * momentum + settle(jax.grad(loss)(kernel, images))
    return kernel - 0.01 * momentum, momentum


def as_it_is(gradient):
    return gradient


def barrier(gradient):
    return jax.lax.optimization_barrier(gradient)


def constraint_and_barrier(gradient):
    return barrier(with_layout_constraint(gradient, Layout((0, 1, 2, 3))))


kernel = jax.ShapeDtypeStruct((3, 3, 96, 128), jnp.float32, sharding=there)
images = jax.ShapeDtypeStruct((64, 28, 28, 96), jnp.bfloat16, sharding=there)
found = []
for settle in (as_it_is, barrier, constraint_and_barrier):
    jitted = jax.jit(functools.partial(step, settle=settle), donate_argnums=0)
    text = jitted.lower((kernel, kernel), images).compile().as_text()
    found.append(text[text.index("\nENTRY") :].count(" copy("))
    print(f"jax {jax.__version__}: gradient {settle.__name__}: {found[-1]} copies")
sys.exit(found != [2, 2, 0])
PYTHON
venv/bin/python update.py 2> /dev/null
echo "as described"
