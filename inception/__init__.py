"""GoogLeNet (Szegedy et al., 2014, arXiv 1409.4842) in JAX and Flax Linen.

The public names below are loaded on first use, so importing this package takes no time.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

PUBLIC = {  # name -> module
    **dict.fromkeys(("AuxiliaryHead", "GoogLeNet", "Inception", "TABLE_1"), "inception.model"),
    **dict.fromkeys(("TrainState", "create_state", "train_step"), "inception.step"),
    "load_config": "inception.config",
    "train": "inception.train",
    "evaluate": "inception.evaluation.evaluate",
    "Predictor": "inception.evaluation.predict",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'inception' has no attribute '{name}'")
    module = importlib.import_module(PUBLIC[name])
    return getattr(module, name, module)


class UserError(ValueError):
    """An error that the user can correct: one line with the fault and the remedy.

    Backquotes mark parameters and knobs, as in `path` or `optim.batch_size`: the command line
    prints them as its flags (inception/cli/errors.py).
    """

    status = 1  # the command's exit status


class Interrupted(UserError):
    """Stopped from outside: the same command resumes from the saved state."""

    status = 75  # EX_TEMPFAIL in sysexits.h: try again
