"""count parameters and multiply-adds of each row, beside the paper's"""

from inception.cli import flags
from inception.config import NETWORK, load_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_config(parser, default=flags.BASE_CONFIG)


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    config = load_config(args.config, overrides, NETWORK)
    from inception.model import GoogLeNet
    from inception.tools import audit
    from inception.tools.text import to_text

    result = audit.audit(GoogLeNet(**config.model), input_px=config.input_px)
    print(to_text(result))
    return result
