"""Runs of some minutes: the epochs that they allow, at the speed of this machine."""

from ml_collections import ConfigDict

from inception import UserError, train
from inception.data import paths, pipeline
from inception.reporting import metrics
from inception.runtime import processes
from inception.runtime.workdir import read_config
from inception.tools import bench

EVALUATIONS = 8  # of a run, each after an equal share of its time


def set_epochs(config: ConfigDict, minutes: float, workdir: str) -> None:
    """Sets config.optim.epochs to what `minutes` of train steps allow, as `bench` times them.

    Evaluates and saves eight times. A run that has begun keeps the epochs of its first start.
    Compiling, evaluating, and reading that the devices wait for come on top.

    Raises:
        UserError: time for fewer steps than evaluations; an unreadable set.
    """
    if (paths.at(workdir) / "metrics.jsonl").exists():
        epochs = read_config(workdir)["optim"]["epochs"]
    else:
        source = pipeline.open_split(config, config.data.train_split)
        per_epoch, _ = train.count_steps(config, len(source))
        metrics.say("measuring the speed of a step")
        seconds = float(
            processes.gather_text(f"{bench.run(config, what='train')['seconds_per_step']}")[0]
        )
        steps = int(60 * minutes / seconds)
        if steps < EVALUATIONS:
            raise UserError(
                f"`minutes`={minutes:g} is enough for {steps} steps of {seconds:.2f} s: give at "
                f"least {EVALUATIONS * seconds / 60:.2g}"
            )
        epochs = steps / per_epoch
        metrics.say(f"{minutes:g} minutes: {steps} steps of {seconds:.2f} s, {epochs:.2f} epochs")
    config.optim.epochs = epochs
    config.run.eval_every_epochs = config.run.checkpoint_every_epochs = epochs / EVALUATIONS
