#!/usr/bin/env bash
# Optuna's SuccessiveHalvingPruner compares trials by their newest report, not by the report of the rung's step.
#
# Guess: a rung at step 1 compares what each trial reported for step 1, whenever should_prune() is called.
# Expected: a trial with .5 at step 1 is pruned there beside one with .6, whatever was reported since.
# Seen with Optuna 5.0.0: should_prune() stores the newest value for every rung that the trial has passed since the
# last call. A trial whose reports arrive together, as from a log that is read now and then, or after a restart, enters
# the rung of step 1 with its value of step 3, beats trials that were asked at step 1, and prunes later ones that are
# better at equal steps.
# Remedy: call should_prune() after every report, not after several.
# Exit status: 0 if Optuna still behaves so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check optuna==5.0.0
cat > rungs.py << 'PYTHON'
import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)


def last_is_pruned(ask_after_every_report):
    """A slow learner (.5 at step 1, .9 at step 3), then a fast one that is asked at step 1 (.6)."""
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    slow = study.ask()
    for step, value in enumerate((0.4, 0.5, 0.7, 0.9)):
        slow.report(value, step)
        if ask_after_every_report:
            slow.should_prune()
    slow.should_prune()
    fast = study.ask()
    for step, value in enumerate((0.5, 0.6)):
        fast.report(value, step)
    return fast.should_prune()


together, each = last_is_pruned(False), last_is_pruned(True)
print(f"optuna {optuna.__version__}: .6 at step 1 beside .5 at step 1 is pruned: {together}, asked after every report: {each}")
raise SystemExit(not (together and not each))
PYTHON
venv/bin/python rungs.py
echo "as described"
