"""compute exact top-1 and top-5 error of the newest checkpoint, as in the paper's Table 3"""

from typing import Any

from inception import UserError
from inception.cli import flags, networks
from inception.config import EVALUATION, CommandLineError, flat, load_config, run_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_config(parser, default="", shown="the run's own")
    flags.add_processes(parser)
    add = parser.add_argument
    add("--workdir", default="", metavar="DIR", help="a run, or converted weights")
    text = "instead of --workdir: an ensemble"
    add("--checkpoints", type=networks.folders, default=[], metavar="DIR,DIR,...", help=text)
    text = "1 (default), 10 or 144 crops per image; several values share one pass"
    add("--crops", type=networks.several_views, default=[1], metavar="N,...", help=text)
    add("--predictions", default="", metavar="FILE", help="write a JSON line per image")
    add("--per_class", default="", metavar="FILE", help="write a CSV of accuracy by class")
    text = "write a CSV of how often each class is taken for which, and its share"
    add("--confusion", default="", metavar="FILE", help=text)
    text = "default: config.data.eval_split; all: a whole folder without splits"
    add("--split", default="", help=text)
    text = "outputs that count: all (default), or those of the classes present in the set"
    add("--outputs", choices=("all", "present"), default="all", help=text)
    add("--best", action="store_true", help="the best checkpoint, not the newest")


def evaluation_config(workdir: str, file: str, overrides: list[str]) -> Any:
    """Loads --config, or the run's; UserError if its network or normalization is not the run's."""
    from inception.model import FREE_KNOBS

    config = load_config(file, overrides, EVALUATION) if file else run_config(workdir, overrides)
    given, own = flat(config, prefix=""), flat(run_config(workdir, []), prefix="")
    for knob, value in own.items():
        group, _, name = knob.partition(".")
        fixed = knob == "data.normalization" or (group == "model" and name not in FREE_KNOBS)
        if fixed and given[knob] != value:
            raise UserError(
                f"config.{knob}={given[knob]}, but {workdir} was trained with {value}: give "
                f"--config.{knob}={value}"
            )
    return config


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    if bool(args.workdir) == bool(args.checkpoints):
        raise CommandLineError("give --workdir=DIR, or --checkpoints=DIR,DIR,... for an ensemble")
    workdirs = [args.workdir] if args.workdir else args.checkpoints
    configs = [evaluation_config(workdir, args.config, overrides) for workdir in workdirs]
    from inception.evaluation import evaluate, results

    flags.join_processes(args)
    names = ("split", "best", "crops", "outputs", "predictions", "per_class", "confusion")
    result = evaluate.run(configs, workdirs, **flags.values(args, *names))
    print(results.table_3(result["table"]))
    print(flags.errors(result, configs[0].model.classes))
    return result
