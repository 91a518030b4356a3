"""`best.py` at batch 1,024, for a pod or a node of eight GPUs.

    python launch.py train --config=experiments/best_1024.py --workdir=runs/best \
        --config.data.path=DATA

Expected: as `best.py`. With BatchNorm, ResNet-50's accuracy stays the same up to batches of 8,192
if the rate grows with the batch (Goyal et al., 2017, as is the warm-up of five epochs). By
`plan --topology=h100:8` a network takes an hour of eight H100, at 99,000 to 133,000 images/s: more
than a process can read (docs/reasons/scaling.md).
"""

from ml_collections import ConfigDict

from experiments import best


def get_config() -> ConfigDict:
    config = best.get_config()
    config.model.dtype = "bfloat16"
    config.optim.batch_size = 1024
    config.optim.learning_rate = 0.72  # bn's, times four
    return config
