"""estimate the steps, FLOPs, memory and hours of a run"""

from inception.cli import flags
from inception.config import NETWORK, CommandLineError, load_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_config(parser, default=flags.DEFAULT_CONFIG)
    text = "images to train on, without the set itself"
    parser.add_argument("--images", type=flags.whole_number, metavar="N", help=text)
    add = parser.add_mutually_exclusive_group().add_argument
    add("--images_per_second", type=flags.positive, metavar="X", help="training rate for the hours")
    add("--measure", action="store_true", help="measure this machine's rate")
    text = "on devices that this machine lacks: h100:8, v5e:4x4, ...; see docs/how-to/speed.md"
    add("--topology", metavar="NAME", help=text)
    add = parser.add_argument_group("with --topology").add_argument
    text = "a training step (default), or a forward pass"
    add("--what", choices=("train", "eval"), default="train", help=text)
    add("--hlo", default="", metavar="FILE", help="write the optimised program")
    add("--output", default="", metavar="FILE.html", help="write a page")


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    if args.topology:
        return run_elsewhere(args, overrides)
    for name in ("hlo", "output"):
        if getattr(args, name):
            raise CommandLineError(f"--{name} goes with --topology")
    if args.what == "eval":
        raise CommandLineError("--what=eval goes with --topology")
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


def run_elsewhere(args: flags.Args, overrides: list[str]) -> flags.Result:
    """--topology: compiles for devices that this machine lacks."""
    if args.images and args.what == "eval":
        raise CommandLineError("--images is for the hours of --what=train")
    config = load_config(args.config, overrides, NETWORK)
    from inception.tools import elsewhere
    from inception.tools.text import to_text

    names = ("what", "images", "hlo", "output")
    result = elsewhere.plan(config, args.topology, **flags.values(args, *names))
    known = {key: value for key, value in result.items() if value not in ([], None)}
    print(to_text({key: value for key, value in known.items() if key != "too_large"}))
    if args.output and result["fits"]:
        print(f"wrote {args.output}")
    return result
