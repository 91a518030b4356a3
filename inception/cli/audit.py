"""launch.py audit: the network beside the paper's Table 1."""

import argparse
from typing import Any

from inception.cli import flags
from inception.config import NETWORK, load_config

HELP = "parameters and operations, row by row, beside the paper's"


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser, default=flags.BASE_CONFIG)


def run(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    config = load_config(args.config, overrides, NETWORK)
    from inception.model import GoogLeNet
    from inception.tools import audit
    from inception.tools.text import to_text

    result = audit.audit(GoogLeNet(**config.model), input_px=config.input_px)
    print(to_text(result))
    return result
