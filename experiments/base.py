"""Every knob at its default; `launch.py knobs` and docs/reference/knobs.md give the reasons.

Other experiments start from `get_config()` and list the differences.
"""

from ml_collections import ConfigDict

from inception.config import default_config


def get_config() -> ConfigDict:
    """The paper's network and sampling; Caffe's quick_solver and MindCV where it is silent."""
    return default_config()
