"""steps, FLOPs, memory and hours of a run, before it"""

from inception.cli import flags
from inception.config import CommandLineError, load_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_config(parser, default=flags.DEFAULT_CONFIG)
    text = "to train on, where the set is not here"
    parser.add_argument("--images", type=flags.whole_number, metavar="N", help=text)
    add = parser.add_mutually_exclusive_group().add_argument
    add("--images_per_second", type=flags.positive, metavar="X", help="in training, for the hours")
    add("--measure", action="store_true", help="or at this machine's rate")


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    if args.images and not any(o.startswith("--config.data.path=") for o in overrides):
        overrides = [*overrides, "--config.data.path=none"]
    try:
        config = load_config(args.config, overrides)
    except CommandLineError as error:
        without = ", or --images=N without the set" if "config.data.path=..." in str(error) else ""
        raise CommandLineError(f"{error}{without}") from error
    from inception.tools import plan
    from inception.tools.text import to_text

    names = ("images", "images_per_second", "measure")
    result = plan.plan(config, **flags.values(args, *names))
    print(to_text(result))
    if result["hours"] is None:
        print("For the hours give --images_per_second=N, or --measure")
    return result
