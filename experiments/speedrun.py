"""The most that some minutes allow: photos from scratch, recipes compared at equal time.

    python launch.py sweep --config=experiments/speedrun.py --workdir=runs/fast --search=20 \
        --minutes=30 --workers=2 --config.data.path=PHOTOS --config.model.classes=10

Every trial trains for the same time: a smaller image size buys epochs. The search is of SGD;
`--sweep=muon` searches Muon's rates and decays, `--sweep=plain` v1 without BatchNorm.
"""

from ml_collections import ConfigDict

from experiments import log_uniform, photos_bn

SIZES = ((0,), (96,), (96, 0), (80, 96, 112))  # 0: the 128 px of evaluation


def get_config() -> ConfigDict:
    config = photos_bn.get_config()
    config.model.head_pool = "adaptive"  # fits every size
    config.optim.warmup_epochs = 0.0  # few minutes may be less than an epoch
    config.optim.warmup_steps = 100
    return config


def space() -> dict:
    """SGD and Nesterov's momentum on BatchNorm."""
    return {
        "train.sizes": SIZES,
        "optim.name": ("sgd", "nesterov"),
        "optim.learning_rate": log_uniform(0.01, 0.2),
        "optim.schedule": ("cosine", "linear", "one_cycle"),
        "optim.weight_decay": log_uniform(1e-4, 2e-3),
        "optim.batch_size": (16, 32, 64),
        "data.area_range": ((0.25, 1.0), (0.35, 1.0)),
        "model.drop_path": (0.0, 0.1),
    }


def space_muon() -> dict:
    """Muon's rate is that of Adam; its decay is multiplied by the rate."""
    return {
        "train.sizes": SIZES,
        "optim.name": ("muon",),
        "optim.learning_rate": log_uniform(5e-4, 1e-2),
        "optim.weight_decay": log_uniform(1e-3, 0.3),
        "optim.batch_size": (32, 64),
    }


def space_plain() -> dict:
    """The paper's network, with LRN: clipping by filter allows larger rates."""
    return {
        "model.norm": ("lrn",),
        "train.sizes": SIZES,
        "optim.name": ("sgd", "nesterov"),
        "optim.learning_rate": log_uniform(0.005, 0.1),
        "optim.adaptive_clip": (0.0, 0.01, 0.04),
        "model.heads": (False, True),
    }
