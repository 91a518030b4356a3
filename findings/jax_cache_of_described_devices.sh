#!/usr/bin/env bash
# JAX's persistent cache stores programs for described devices, and cannot read them back.
#
# Guess: a program compiled ahead of time for devices that the machine lacks is read from the cache by the
# next process, like any other program; or the cache does not store such programs.
# Seen with jax 0.10.2 and its CUDA compiler on a machine without a GPU: the first process writes the
# program to the cache's folder. The second finds it, warns that it cannot be deserialized without a
# client, compiles it again, and leaves the file. So the cache costs time in each process and saves none.
# Remedy: jax.config.update("jax_enable_compilation_cache", False) before the first such compilation.
# Needs no GPU, but 400 MB of packages, including the compiler.
# Exit status: 0 if JAX still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 \
  jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2
cat > compile.py << 'PYTHON'
import pathlib
import sys
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import topologies
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
jax.config.update("jax_compilation_cache_dir", "cache")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
h100 = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
there = SingleDeviceSharding(h100.devices[0])
x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=there)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jax.jit(lambda x: jnp.sin(x) @ x).lower(x).compile()
told = [str(w.message) for w in caught if "compilation cache" in str(w.message)]
kept = [p.name.split("-")[0] for p in pathlib.Path("cache").glob("*-cache")]
print(f"jax {jax.__version__}: the folder has {kept}; warnings: {told}")
sys.exit(len(kept) != 1 or len(told) != int(sys.argv[1]))
PYTHON
venv/bin/python compile.py 0 2> /dev/null
venv/bin/python compile.py 1 2> /dev/null
echo "as described"
