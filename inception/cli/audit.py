"""parameters and operations, row by row, beside the paper's"""

import argparse
from typing import Any

from inception.cli import flags
from inception.config import NETWORK, load_config


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser, default=flags.BASE_CONFIG)


def run(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    config = load_config(args.config, overrides, NETWORK)
    from inception.model import GoogLeNet
    from inception.tools import audit

    result = audit.audit(GoogLeNet(**config.model), input_px=config.input_px)
    print(audit.to_text(result))
    return result
