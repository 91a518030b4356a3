"""A network and a run so small that tests can train them."""

import pathlib

from ml_collections import ConfigDict

import launch

EXPERIMENT = str(pathlib.Path(__file__).parents[1] / "experiments" / "digits.py")
# 16 images of noise around three colours, two steps an epoch: every part of a run, in seconds.
OVERRIDES = (
    "--config.model.width=0.05",
    "--config.model.classes=3",
    "--config.data.source=synthetic",
    "--config.data.examples=32",
    "--config.data.colors.brightness=0.2",
    "--config.optim.batch_size=16",
    "--config.optim.epochs=3.",
    "--config.optim.learning_rate=0.02",
    "--config.run.eval_batch_size=24",
    "--config.run.log_every_steps=2",
    "--config.run.workers=2",
)


def config(*overrides: str) -> ConfigDict:
    return launch.load_config(EXPERIMENT, [*OVERRIDES, *overrides])
