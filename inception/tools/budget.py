"""Runs of some minutes: the epochs that they allow, at the speed of this machine."""

from ml_collections import ConfigDict

from inception import UserError, train
from inception.data import paths, pipeline
from inception.reporting import metrics
from inception.runtime import processes
from inception.runtime.workdir import read_config
from inception.tools import bench

EVALUATIONS = 8


def set_epochs(config: ConfigDict, minutes: float, workdir: str) -> None:
    """Sets config.optim.epochs to what `minutes` of train steps allow, as `bench` times them.

    The run evaluates and saves after every eighth of its steps. A run that has begun keeps the
    epochs of its first start. Compiling, evaluating, and waiting for images come on top.

    Raises:
        UserError: time for fewer than eight steps, or for none after the warm-up; as `train.run`.
    """
    if (paths.at(workdir) / "metrics.jsonl").exists():
        epochs = read_config(workdir)["optim"]["epochs"]
        metrics.say(f"{workdir} has begun: it keeps its {epochs:.4g} epochs")
    else:
        source = processes.together(lambda: pipeline.open_split(config, config.data.train_split))
        per_epoch, _ = train.count_steps(config, len(source))
        metrics.say("measuring the speed of a step")
        measured = bench.run(config, what="train")["seconds_per_step"]
        seconds = float(processes.gather_text(str(measured))[0])
        steps = int(60 * minutes / seconds)
        fewest = max(EVALUATIONS, train.warmup_steps(config, per_epoch) + 1)
        if steps < fewest:
            raise UserError(
                f"`minutes`={minutes:g} is enough for {steps} steps of {seconds:.2f} s: with its "
                f"warm-up this run needs at least {fewest * seconds / 60:.2g}"
            )
        epochs = steps / per_epoch
        metrics.say(f"{minutes:g} minutes: {steps} steps of {seconds:.2f} s, {epochs:.2f} epochs")
    config.optim.epochs = epochs
    config.run.eval_every_epochs = config.run.checkpoint_every_epochs = epochs / EVALUATIONS
