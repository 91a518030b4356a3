"""measure speed on this machine, without compilation"""

from inception.cli import flags
from inception.config import NETWORK, TRAINING, load_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_config(parser, default=flags.DEFAULT_CONFIG)
    add = parser.add_argument
    text = "a training step (default), a forward pass, or the loader's batches"
    add("--what", choices=("train", "eval", "input"), default="train", help=text)
    add("--batch_size", type=flags.whole_number, metavar="N", help="default: the config's own")
    add("--profile", action="store_true", help="also show the time of each layer")


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    rules = TRAINING if args.what == "input" else NETWORK
    config = load_config(args.config, overrides, rules)
    from inception.tools import bench
    from inception.tools.text import to_text

    result = bench.run(config, **flags.values(args, "what", "batch_size", "profile"))
    print(to_text(result))
    return result
