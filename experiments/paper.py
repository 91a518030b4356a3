"""The paper's schedule: the rate x0.96 every 8 epochs, and the Polyak average for inference.

The paper gives no rate, batch, decay, initialisation or length of training. It speaks of "a few
high-end GPUs within a week": at some 600 images/s, of four GPUs of 2014, that is 280 epochs.

    python launch.py train --config=experiments/paper.py --workdir=runs/paper \
        --config.data.path=DATA
    python launch.py eval --workdir=runs/paper --crops=1,10,144

Expected: top-5 error 10.07%, 9.15%, 7.89% with 1, 10 and 144 crops, the paper's. Not yet run.
"""

from ml_collections import ConfigDict

from experiments import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.optim.schedule = "exponential"  # paper, section 6; rate and steps are in base.py
    config.optim.epochs = 280.0  # see above; the rate ends at a quarter
    return config
