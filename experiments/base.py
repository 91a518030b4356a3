"""Every knob at its default: `launch.py knobs`, or docs/knobs.md, gives each its reason.

Other experiments start from `get_config()` and list what differs.
"""

from ml_collections import ConfigDict

from inception.config import default_config


def get_config() -> ConfigDict:
    """The paper's network and sampling; where it is silent, Caffe's quick_solver and MindCV."""
    return default_config()
