"""`best.py` at batch 1,024, for a pod or a node of eight GPUs.

    python launch.py train --config=experiments/best_1024.py --workdir=runs/best_1024 \
        --config.data.path=DATA

Expected: as `best.py`. With BatchNorm, ResNet-50 keeps its accuracy up to batches of 8,192 if the
rate grows with the batch (Goyal et al., 2017; there statistics are over 32 images, here over the
batch). Eight H100 take about an hour: `plan --topology=h100:8` with
--config.train.sizes="(0,)" and --config.input_px=128, 160 and 192 says 133,000, 115,000 and 99,000
images/s, evaluations apart; 224 px was not compiled. One process reads 40,000 at most: start one
for each GPU, or wait three hours. Not yet run.
"""

from ml_collections import ConfigDict

from experiments import best


def get_config() -> ConfigDict:
    config = best.get_config()
    config.model.dtype = "bfloat16"
    config.optim.batch_size = 1024
    config.optim.learning_rate = 0.72  # bn's, times four
    config.run.eval_every_epochs = 10.0  # an epoch takes seconds
    config.run.checkpoint_every_epochs = 10.0
    return config


sweep = best.sweep
