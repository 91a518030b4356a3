#!/usr/bin/env python3
"""The command line: python launch.py COMMAND [flags]. `python launch.py` lists the commands."""

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import pathlib
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from inception import Interrupted, UserError
from inception.cli.main import as_flags
from inception.config import CommandLineError, load_config, run_config
from inception.launching import jobs, local

DEFAULT_CONFIG = "experiments/digits.py"
BASE_CONFIG = "experiments/base.py"


def join(args: argparse.Namespace) -> None:
    """Joins the other processes of the run, if there are any; only process 0 prints."""
    from inception.runtime import processes

    processes.initialize(
        args.coordinator_address,
        args.num_processes,
        args.process_id,
        timeout_s=args.initialization_timeout,
        stop_together=args.command == "train",
    )
    if not processes.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def start_processes(args: argparse.Namespace, overrides: list[str]) -> int:
    """`train` as several processes of this machine, or as one that is restarted; its status."""
    train_config(args, overrides)  # a wrong knob ends it here, once
    command = [*jobs.LAUNCH, *args.argv, "--processes=1", "--restarts=0"]  # the last flags count
    return local.run(command, processes=args.processes, restarts=args.restarts)


def there(argv: list[str]) -> list[str]:
    """The command line that runs in the job: without what says where."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_places(known)
    return known.parse_known_args(argv)[1]


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """{name: value} of the flags for --on; CommandLineError for one of another place.

    They are in groups whose titles say for which places.
    """
    found = {}
    for group in args.parser._action_groups:
        for flag in group._group_actions if group.title.startswith("--on=") else ():
            value = getattr(args, flag.dest)
            if args.on in group.title:
                found[flag.dest] = value
            elif value and value != flag.default:
                raise CommandLineError(f"--{flag.dest} is not for --on={args.on}")
    return found


def train_config(args: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    """Of --config, or with --from_run of another run."""
    if not args.from_run:
        return load_config(args.config or DEFAULT_CONFIG, overrides)
    if args.config:
        raise CommandLineError("give --config or --from_run, not both")
    return run_config(args.from_run, overrides)


def train(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    config = train_config(args, overrides)
    if args.on == "sky":
        jobs.check_is_on_hosts(args.config, args.from_run)
    if args.on != "local":
        submitted = jobs.submit(
            args.on, there(args.argv), args.workdir, dry_run=args.dry_run, asked=args.asked
        )
        return {"jobs": submitted, "workdir": args.workdir}
    join(args)
    from inception import train

    command = shlex.join(["python", "launch.py", *args.argv])
    result = train.run(config, args.workdir, command=command)
    print(
        f"top-1 error {result['top1_error']:.2f}%, top-5 error {result['top5_error']:.2f}% on "
        f"{result['count']} images after {result['steps']} steps, "
        f"{result['images_per_second']:.0f} images/s. Page: {args.workdir}/report.html"
    )
    return result


def evaluate(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    if bool(args.workdir) == bool(args.checkpoints):
        raise CommandLineError("give --workdir=DIR, or --checkpoints=DIR,DIR,... for an ensemble")
    from inception.evaluation import evaluate, results
    from inception.model import FREE_KNOBS

    workdirs = [args.workdir] if args.workdir else args.checkpoints
    configs = []
    for workdir in workdirs:
        trained = run_config(workdir, [])
        config = (
            load_config(args.config, overrides) if args.config else run_config(workdir, overrides)
        )
        for knob, value in trained.model.items():
            if config.model[knob] != value and knob not in FREE_KNOBS:
                raise UserError(
                    f"config.model.{knob}={config.model[knob]}, but {workdir} was trained with "
                    f"{value}"
                )
        if config.data.normalization != trained["data"]["normalization"]:
            raise UserError(
                f"config.data.normalization={config.data.normalization}, but {workdir} was trained "
                f"with {trained.data.normalization}: give --config.data.normalization="
                f"{trained.data.normalization}"
            )
        configs.append(config)
    join(args)
    result = evaluate.run(
        configs,
        workdirs,
        split=args.split,
        best=args.best,
        crops=args.crops,
        predictions=args.predictions,
        per_class=args.per_class,
    )
    print(results.table_3(result["table"]))
    print(
        f"top-1 error {result['top1_error']:.2f}%, top-5 error {result['top5_error']:.2f}% on "
        f"{result['count']} images"
    )
    for line in result["unwritten"]:
        print(f"launch.py eval: {line}", file=sys.stderr)
    return result


def sweep(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    from inception.sweeps import command

    return command.sweep(
        args.config,
        overrides,
        args.workdir,
        name=args.sweep,
        trials=args.search,
        workers=args.workers,
        launcher=args.on,
        dry_run=args.dry_run,
        resources=args.asked,
        worker_command=[*there(args.argv), "--workers=1"],
    )


def predict(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    import tqdm

    from inception.data import progress
    from inception.evaluation import cam, predict

    if "://" in args.cam:
        raise CommandLineError(f"--cam={args.cam}: draw into a local folder, then copy it there")
    paths = predict.find(args.images)
    configs = [run_config(workdir, overrides) for workdir in args.checkpoint]
    join(args)
    predictor = predict.Predictor(*args.checkpoint, best=args.best, configs=configs)
    predictions, rejected = [], []
    drawn: set[str] = set()
    if args.cam:
        for config in configs:
            cam.check(config.model)
        pathlib.Path(args.cam).mkdir(parents=True, exist_ok=True)
    for prediction in progress.bar(
        predictor.each(paths, topk=args.topk, crops=args.crops),
        total=len(paths),
        unit="img",
        leave=False,
        disable=len(paths) < 10,
    ):
        if "error" in prediction:
            rejected.append(prediction["error"])
            continue
        predictions.append(prediction)
        if not args.json:
            tqdm.tqdm.write(prediction["image"])
            for c in prediction["classes"]:
                tqdm.tqdm.write(f"  {c['probability']:7.2%}  {c['name']}")
        if args.cam:
            stem = pathlib.Path(prediction["image"]).stem
            endings = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
            file = next(f for e in endings if (f := f"{args.cam}/{stem}{e}.png") not in drawn)
            drawn.add(file)
            prediction["cam"] = file
            drawing = predictor.draw(prediction)  # by all processes: their devices take part
            if is_main():
                drawing.save(file)
    for line in rejected if is_main() else ():
        print(f"launch.py predict: {line}", file=sys.stderr)
    return {"predictions": predictions, "rejected": rejected}


def report(args: argparse.Namespace, _overrides: list[str]) -> dict[str, Any]:
    from inception.reporting import page

    written = page.write(args.runs, args.output)
    print(f"wrote {written}")
    return {"page": written}


def audit(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    config = load_config(args.config, overrides)
    from inception.model import GoogLeNet
    from inception.tools import audit

    result = audit.audit(GoogLeNet(**config.model), input_px=config.input_px)
    print(audit.to_text(result))
    return result


def bench(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    config = load_config(args.config, overrides)
    from inception.tools import bench

    result = bench.run(config, what=args.what, batch_size=args.batch_size, profile=args.profile)
    print(bench.to_text(result))
    return result


def plan(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    if args.images and not any(o.startswith("--config.data.path=") for o in overrides):
        overrides = [*overrides, "--config.data.path=none"]
    try:
        config = load_config(args.config, overrides)
    except CommandLineError as error:
        without = ", or --images=N without the set" if "config.data.path=..." in str(error) else ""
        raise CommandLineError(f"{error}{without}") from error
    from inception.tools import plan

    result = plan.plan(
        config,
        images=args.images,
        images_per_second=args.images_per_second,
        measure=args.measure,
    )
    print(plan.to_text(result))
    return result


def prepare(args: argparse.Namespace, _overrides: list[str]) -> dict[str, Any]:
    if bool(args.source) == bool(args.tars or args.name):
        raise CommandLineError("give --tars, --name or both; or else --source")
    if args.source and args.short_side is None:
        raise CommandLineError("--source is there to write a store from: give --short_side")
    from inception.data import prepare

    result = prepare.prepare(
        tars=args.tars,
        name=args.name,
        source=args.source,
        output=args.output,
        short_side=args.short_side,
        quality=args.quality,
        format=args.format,
    )
    kind = "store" if args.short_side else f"tfds --config.data.name={args.name or 'imagenet2012'}"
    print(
        f"Train on it: --config.data.path={args.output} --config.data.source={kind} "
        f"--config.data.eval_split={list(result['splits'])[-1]}, and its number of classes as "
        "--config.model.classes"
    )
    return result


def convert(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    load_config(BASE_CONFIG, overrides)  # a wrong knob ends it before the file is read
    from inception.formats import convert

    weights = convert.read(args.source, args.input)
    knobs = [f"--config.{knob}={value}" for knob, value in weights.knobs.items()]
    config = load_config(BASE_CONFIG, [*knobs, *overrides])
    result = convert.write(weights, config, args.output, classes=args.classes)
    print(
        f"{result['parameters']:,} parameters, {config.model.classes} classes, "
        f"{'with' if config.model.heads else 'without'} auxiliary heads: {args.output}"
    )
    for key, why in (
        ("ignored", "the network has no place for"),
        ("missing", "the network could have, and the file lacks"),
    ):
        if names := result[key]:
            more = f" and {len(names) - 12} more" if len(names) > 12 else ""
            print(f"{key}, what {why}: {', '.join(names[:12])}{more}")
    print(
        f"Evaluate it on class folders in FOLDER/val: launch.py eval --workdir={args.output} "
        "--config.data.path=FOLDER; on class folders in FOLDER itself, with --split=all"
    )
    return result


# Types for argparse: what they raise ends the command with exit status 2.


def folders(text: str) -> list[str]:
    """'a,b' -> ['a', 'b']."""
    if not (names := [name for name in text.split(",") if name]):
        raise argparse.ArgumentTypeError("give a folder")
    return names


def views(text: str) -> int:
    """'10' -> 10 crops of an image."""
    from inception.data.cropping import VIEWS

    if text not in map(str, VIEWS):
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(map(str, VIEWS))}")
    return int(text)


def several_views(text: str) -> list[int]:
    """'1,10' -> [1, 10]."""
    return [views(number) for number in text.split(",")]


def whole_number(text: str, most: float = math.inf, least: int = 1) -> int:
    """'5' -> 5, at least 1."""
    if not text.isdecimal() or not least <= int(text) <= most:
        bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, {bounds}")
    return int(text)


def positive(text: str) -> float:
    """'2.5' -> 2.5, above 0."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be above 0")
    return float(text)


def export(args: argparse.Namespace, _overrides: list[str]) -> dict[str, Any]:
    from inception.formats import export

    if pathlib.Path(args.output).suffix.lower() not in export.FORMATS:
        *others, last = export.FORMATS
        raise CommandLineError(
            f"--output={args.output}: its suffix chooses the format: {', '.join(others)} or {last}"
        )
    if "://" in args.output:
        raise CommandLineError(f"--output={args.output}: write a local file, then copy it there")
    result = export.run(args.checkpoint, args.output, best=args.best)
    print(f"wrote {result['file']}: {result['parameters']:,} parameters")
    return result


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = argparse.ArgumentParser(
        prog="launch.py",
        description="GoogLeNet (Szegedy et al., 2014): train, evaluate, look.",
        epilog="Exit status: 0 done, 1 the work failed, 2 the command line was wrong, 75 stopped "
        "from outside: train and sweep go on with the same command.",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def command(name: str, function: Any, text: str, *, config: str | None, knobs: str = "") -> Any:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(
            parser=sub, function=function, takes_config=config is not None or bool(knobs)
        )
        sub.add_argument(
            "--json",
            action="store_true",
            help="print the result as one JSON object, last on stdout",
        )
        if config is not None:
            default = f" (default: {config})" if config else f" (default: {knobs})"
            sub.add_argument(
                "--config", default=config, metavar="FILE", help=f"experiment file{default}"
            )
        if function in (train, evaluate, predict):
            group = sub.add_argument_group(
                "one of several processes",
                "SLURM, TPU pods, Open MPI and Kubernetes tell these themselves",
            )
            group.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
            group.add_argument("--num_processes", type=int, metavar="N")
            group.add_argument("--process_id", type=int, metavar="I", help="0 to N-1")
            group.add_argument(
                "--initialization_timeout", type=int, default=300, metavar="SECONDS",
                help="how long to wait for the others (default: 300)",
            )  # fmt: skip
        if config is not None or knobs:
            sub.epilog = (
                "Any knob can be changed, as in --config.data.resize=short: experiments/base.py "
                "explains each."
            )
        return sub

    sub = command(
        "train", train, "train, or go on where DIR stopped", config="", knobs=DEFAULT_CONFIG
    )
    sub.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    sub.add_argument(
        "--from_run", default="", metavar="DIR", help="instead of --config: as that run was"
    )
    add_places(sub)
    group = sub.add_argument_group("--on=local")
    group.add_argument(
        "--processes", type=whole_number, default=1, metavar="N", help="so many on this machine"
    )
    group.add_argument(
        "--restarts", type=functools.partial(whole_number, least=0), default=0, metavar="K",
        help="start again up to K times when a process was killed or lost",
    )  # fmt: skip

    sub = command(
        "eval",
        evaluate,
        "exact top-1 and top-5 error of the newest checkpoint, as in the paper's Table 3",
        config="",
        knobs="the run's own",
    )
    sub.add_argument("--workdir", default="", metavar="DIR", help="a run, or converted weights")
    sub.add_argument(
        "--checkpoints",
        type=folders,
        default=[],
        metavar="DIR,DIR,...",
        help="instead: an ensemble",
    )
    sub.add_argument(
        "--crops",
        type=several_views,
        default=[1],
        metavar="N,...",
        help="1 (default), 10 or 144 crops an image; several come out of one pass",
    )
    sub.add_argument("--predictions", default="", metavar="FILE", help="a JSON line an image")
    sub.add_argument("--per_class", default="", metavar="FILE", help="CSV of accuracy by class")
    sub.add_argument(
        "--split",
        default="",
        help="default: config.data.eval_split; all: the whole of a folder that has no splits",
    )
    sub.add_argument("--best", action="store_true", help="the best checkpoint, not the newest")

    sub = command(
        "sweep",
        sweep,
        "train every point of the experiment's sweep(); those that are finished stay as they are",
        config="experiments/ensemble.py",
    )
    sub.add_argument("--workdir", required=True, metavar="DIR", help="a folder of runs: 0, 1, ...")
    sub.add_argument(
        "--sweep", default="", metavar="NAME", help="sweep_NAME() of the experiment, not sweep()"
    )
    sub.add_argument(
        "--search", type=whole_number, metavar="TRIALS",
        help="instead: Optuna chooses so many points from the experiment's space()",
    )  # fmt: skip
    sub.add_argument(
        "--workers", type=whole_number, metavar="N",
        help="points at a time; here they share the cores (default: 1, on SLURM all)",
    )  # fmt: skip
    add_places(sub)

    sub = command(
        "predict",
        predict,
        "what is in pictures: the likeliest classes",
        config=None,
        knobs="the run's own",
    )
    sub.add_argument(
        "--checkpoint",
        type=folders,
        required=True,
        metavar="DIR[,DIR...]",
        help="a run, or converted weights; several are an ensemble",
    )
    sub.add_argument("--best", action="store_true", help="the best checkpoint, not the newest")
    sub.add_argument("--topk", type=whole_number, default=5, help="classes of each (default: 5)")
    sub.add_argument("--crops", type=views, default=1, help="1 (default), 10 or 144, averaged")
    sub.add_argument(
        "--cam",
        default="",
        metavar="DIR",
        help="draw where each of these classes was seen in the central crop, a PNG an image",
    )
    sub.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, a folder, or a .txt with a path a line"
    )

    sub = command(
        "prepare",
        prepare,
        "ImageNet's tars, or any TFDS set, -> ArrayRecord; or a store that trains faster",
        config=None,
    )
    sub.add_argument(
        "--tars", default="", metavar="DIR", help="ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar"
    )
    sub.add_argument("--name", default="", help="another TFDS set, downloaded by TFDS")
    sub.add_argument(
        "--source", default="", metavar="DIR",
        help="instead: a folder of class folders, or what TFDS prepared",
    )  # fmt: skip
    sub.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    sub.add_argument(
        "--short_side", type=whole_number, metavar="PX",
        help="write a store: every image once more, its shorter side at most this",
    )  # fmt: skip
    sub.add_argument(
        "--quality", type=functools.partial(whole_number, most=100), default=90,
        help="of the store's JPEGs, 1 to 100 (default: 90)",
    )  # fmt: skip
    sub.add_argument(
        "--format", choices=("jpeg", "rgb"), default="jpeg",
        help="of the store: rgb is plain pixels, 9 to 10 times the bytes and no decoding",
    )  # fmt: skip

    sub = command(
        "convert",
        convert,
        "published weights of another framework -> a checkpoint of ours",
        config=None,
        knobs=f"{BASE_CONFIG} with the weights' own network and input",
    )
    sub.add_argument("--source", required=True, choices=("caffe", "torchvision"))
    sub.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="bvlc_googlenet.caffemodel; or torchvision's googlenet, .pth or .safetensors",
    )
    sub.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    sub.add_argument(
        "--classes",
        default="",
        metavar="FILE",
        help="names of the outputs, a line each (default: ImageNet's if they are 1,000)",
    )

    sub = command(
        "export", export, "a trained network as one file, for other programs", config=None
    )
    sub.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="what train or convert wrote"
    )
    sub.add_argument("--best", action="store_true", help="the best checkpoint, not the newest")
    sub.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the suffix chooses the format: .safetensors, .stablehlo or .onnx",
    )

    sub = command("report", report, "a page about one run or several, or a table", config=None)
    sub.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a study's")
    sub.add_argument("--output", required=True, metavar="FILE", help="page.html, or table.csv")

    command(
        "audit",
        audit,
        "parameters and operations, row by row, beside the paper's",
        config=BASE_CONFIG,
    )

    sub = command(
        "bench", bench, "how fast it is on this machine, compilation apart", config=DEFAULT_CONFIG
    )
    sub.add_argument(
        "--what",
        choices=("train", "eval", "input"),
        default="train",
        help="a training step (default), a forward pass, or the loader's batches",
    )
    sub.add_argument(
        "--batch_size", type=whole_number, metavar="N", help="default: the config's own"
    )
    sub.add_argument(
        "--profile", action="store_true", help="and where the time goes, layer by layer"
    )

    sub = command(
        "plan", plan, "steps, FLOPs, memory and hours of a run, before it", config=DEFAULT_CONFIG
    )
    sub.add_argument(
        "--images", type=whole_number, metavar="N", help="to train on, where the set is not here"
    )
    rate = sub.add_mutually_exclusive_group()
    rate.add_argument(
        "--images_per_second", type=positive, metavar="X", help="in training, for the hours"
    )
    rate.add_argument("--measure", action="store_true", help="or at this machine's rate")
    return top


def pair(text: str) -> tuple[str, str]:
    """'a=b' -> ('a', 'b')."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: must be NAME=VALUE")
    return name, value


def add_places(sub: argparse.ArgumentParser) -> None:
    """--on, and what a job of a cluster or a cloud asks for."""
    sub.add_argument(
        "--on",
        choices=("local", "slurm", "sky"),
        default="local",
        help="this machine, a job of SLURM, or of SkyPilot; see docs/launching.md",
    )
    sub.add_argument("--dry_run", action="store_true", help="print what would be launched")
    group = sub.add_argument_group("--on=slurm", "each overrides what --cluster=FILE says")
    group.add_argument("--cluster", default="", metavar="FILE", help="TOML file of what follows")
    group.add_argument("--partition", metavar="NAME")
    group.add_argument("--account", metavar="NAME")
    group.add_argument("--time", metavar="TIME", help="of one turn, as sbatch has it; it goes on")
    group.add_argument("--gpus_per_node", type=whole_number, metavar="N")
    group.add_argument(
        "--tasks_per_node", type=whole_number, metavar="N", help="default: one for each GPU"
    )
    group.add_argument("--cpus_per_task", type=whole_number, metavar="N")
    group = sub.add_argument_group("--on=slurm or sky")
    group.add_argument("--nodes", type=whole_number, metavar="N", help="default: 1")
    group = sub.add_argument_group("--on=sky", "through SkyPilot")
    group.add_argument(
        "--accelerators", default="", metavar="NAME", help="tpu-v5litepod-64, H100:8, ..."
    )
    group.add_argument(
        "--infra", default="", help="cloud/region/zone or k8s; default: the cheapest there is"
    )
    group.add_argument("--spot", action="store_true", help="on machines that may be taken away")
    group.add_argument(
        "--copy", type=pair, action="append", default=[], metavar="PATH=gs://...",
        help="a bucket's folder that is copied to each host",
    )  # fmt: skip
    group.add_argument(
        "--env", type=pair, action="append", default=[], metavar="NAME=VALUE",
        help="a variable for the command",
    )  # fmt: skip


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Within it whatever prints, in C as well, prints to stderr."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def main(argv: list[str]) -> int:
    """Runs one command; returns the exit status."""
    top = parser()
    if not argv:
        top.print_help()
        return 2
    args, rest = top.parse_known_args(argv)
    args.argv = argv
    if args.command is None:
        print(f"launch.py: {argv[0]}: name a COMMAND first; see launch.py --help", file=sys.stderr)
        return 2
    if more := {"predict": "images", "report": "runs"}.get(args.command):
        # argparse takes those in one place alone: not "a --topk=1 b".
        getattr(args, more).extend(a for a in rest if not a.startswith("-"))
        rest = [a for a in rest if a.startswith("-")]
    try:
        overrides = rest if args.takes_config else []
        wrong = [
            a for a in rest if a.startswith("-") and not (args.takes_config and "config." in a)
        ]
        if wrong or (rest and not args.takes_config):
            raise CommandLineError(
                f"unknown flag {(wrong or rest)[0]}; see launch.py {args.command} --help"
            )
        if "on" in args:
            args.asked = asked(args)
        if args.function is train and args.on == "local":
            if args.dry_run:
                raise CommandLineError("--dry_run is for --on=slurm and --on=sky")
            if args.processes > 1 or args.restarts:
                if args.coordinator_address:
                    raise CommandLineError("--processes and --restarts start all processes here")
                return start_processes(args, overrides)
        with stdout_to_stderr() if args.json else contextlib.nullcontext():
            result = args.function(args, overrides)
    except CommandLineError as error:
        print(f"launch.py {args.command}: {error}", file=sys.stderr)
        return 2
    except (UserError, OSError) as error:
        print(f"launch.py {args.command}: {as_flags(str(error), vars(args))}", file=sys.stderr)
        return error.status if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print(f"launch.py {args.command}: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if "inception.runtime.processes" in sys.modules and sys.modules[
            "inception.runtime.processes"
        ].is_lost_peer(error):
            print(
                f"launch.py {args.command}: another process of the run has ended or is out of "
                f"reach ({str(error).splitlines()[0]}). What is saved is kept: the same command "
                "goes on from there",
                file=sys.stderr,
            )
            return Interrupted.status
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text or "memory" not in text:
            raise
        remedy = {
            "train": "config.optim.accumulate=2 or more, config.model.remat=true, or for its "
            "evaluation a smaller config.run.eval_batch_size",
            "bench": "a smaller --batch_size",
        }.get(args.command, "a smaller config.run.eval_batch_size")
        print(
            f"launch.py {args.command}: {text.splitlines()[0]} Give {remedy}",
            file=sys.stderr,
        )
        return 1
    if args.json and is_main():
        print(json.dumps(result))
    failed = {"predict": "rejected", "eval": "unwritten"}.get(args.command)
    return 1 if failed and result[failed] else 0


def is_main() -> bool:
    """Whether this is process 0; without JAX there is no other."""
    processes = sys.modules.get("inception.runtime.processes")
    return not processes or processes.is_main()


def terminated(_number: int, _frame: Any) -> None:
    """What SIGTERM does where nothing is saved by it."""
    print("launch.py: stopped by SIGTERM", file=sys.stderr)
    raise SystemExit(Interrupted.status)


def leave(status: int) -> None:
    """Ends this process; after a failure at once.

    Threads that still compile, or other processes that wait for this one, would keep it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if status in (0, 2):
        sys.exit(status)
    if "inception.runtime.processes" in sys.modules and is_main():
        time.sleep(1)  # the others fail by themselves, or JAX ends them with a page of its own
    os._exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    try:
        status = main(sys.argv[1:])
    except SystemExit as error:  # of argparse, and of `terminated`
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    leave(status)
