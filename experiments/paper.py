"""The paper's schedule: the learning rate x0.96 every 8 epochs, and Polyak averaging.

The paper gives no rate, batch, decay, initialisation or length of training. It speaks of "a few
high-end GPUs within a week": at about 600 images/s, of four GPUs of 2014, that is 280 epochs. The
paper only subtracts the mean from its inputs. For such inputs, Caffe's initialisation and rate are
known to train this network. With them the trunk sometimes stays dead; then a warning appears after
four epochs, and --config.seed=1 draws other weights.

    python launch.py train --config=experiments/paper.py --workdir=runs/paper \
        --config.data.path=DATA
    python launch.py eval --workdir=runs/paper --crops=1,10,144

Expected: the paper's top-5 error, 10.07%, 9.15%, 7.89% with 1, 10, 144 crops; 50 hours on a GPU
of 2,000 images/s, 2 to 4 on eight A100 (docs/how-to/imagenet.md). Not yet run.
"""

from ml_collections import ConfigDict

from experiments import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.data.normalization = "mean"  # paper, section 5
    config.model.initializer = "xavier"  # Caffe's, for such inputs
    config.optim.learning_rate = 0.04  # Intel Caffe at batch 256, likewise
    config.optim.schedule = "exponential"  # paper, section 6; its decay is in base.py
    config.optim.epochs = 280.0  # see above; the rate falls to a quarter
    return config
