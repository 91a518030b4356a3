"""average the weights of runs that share their initial weights, or of a run's last checkpoints"""

import functools

from inception.cli import flags, networks
from inception.config import run_config


def add_flags(parser: flags.Parser) -> None:
    flags.add_knobs(parser)
    add = parser.add_argument
    add("workdirs", type=networks.folders, metavar="DIR[,DIR...]", help="runs, or one run")
    add("--output", required=True, metavar="DIR", help="a new folder")
    text = "of one run: average its last K checkpoints"
    add("--last", type=flags.whole_number, default=1, metavar="K", help=text)


def run(args: flags.Args, overrides: list[str]) -> flags.Result:
    configs = [run_config(workdir, overrides) for workdir in args.workdirs]
    from inception import train
    from inception.evaluation import average, results
    from inception.runtime import sharding

    # Any number of steps: nothing in the state depends on it.
    build = functools.partial(train.build, steps_per_epoch=1e6, total_steps=10**8)
    student = configs[0].copy_and_resolve_references()
    student.distill.teacher = ""  # the optimizer needs none
    tx = build(student, sharding.make_mesh()).tx
    result = average.run(configs, args.workdirs, output=args.output, tx=tx, last=args.last)
    print(results.table_3(result["table"]))
    print(f"{flags.errors(result, configs[0].model.classes)}: {args.output}")
    return result
