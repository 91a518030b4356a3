"""Tasks for SkyPilot: what they say, what their scripts do, and that SkyPilot's schema takes them.

The last need SkyPilot (pip install -e '.[sky]') and are skipped where it is not.
"""

import itertools
import json
import pathlib
import subprocess
import sys
import types

import pytest
import yaml

import launch
from inception import UserError
from inception.config import ROOT
from inception.launching import sky
from tests import tiny

WORKDIR = "gs://bucket/run"
COMMAND = ["train", "--config=experiments/bn.py", f"--workdir={WORKDIR}", "--config.name=a b"]


def task(**changed):
    given = {"workdir": WORKDIR, "accelerators": "H100:8"} | changed
    return sky.task(COMMAND, **given)


TASKS = {
    "tpu pod slice": task(accelerators="tpu-v5litepod-64", infra="gcp/us-west4", spot=True),
    "old tpu": task(accelerators="tpu-v4-32"),
    "tpu on kubernetes": task(accelerators="tpu-v5litepod-4", infra="k8s"),
    "8-gpu node": task(env=[("XLA_FLAGS", "--xla_dump_to=x")]),
    "4-node gpu cluster": task(nodes=4, infra="aws", spot=True, copy=[("/data", "s3://b/store")]),
    "kubernetes": task(infra="k8s/context"),
}


def run_script(tmp_path: pathlib.Path, which: str, name: str, **env: str) -> tuple[int, str]:
    """A script's status and output, with the programs that it calls replaced by ones that tell."""
    (tmp_path / "bin").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    programs = {
        "python": 'for a; do echo "[$a]"; done; exit ${STATUS:-0}',
        "sleep": "echo slept",
        "uv": 'echo uv "$@"',
        "nvidia-smi": "echo $DRIVER",
    }
    for program, text in programs.items():
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / program).chmod(0o755)
    env |= {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", TASKS[name][which]],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_hosts_of_a_gpu_cluster_are_told_their_place(tmp_path: pathlib.Path) -> None:
    env = {"SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8", "SKYPILOT_NUM_NODES": "2"}
    status, out = run_script(tmp_path, "run", "4-node gpu cluster", SKYPILOT_NODE_RANK="1", **env)
    place = ["--coordinator_address=10.0.0.7:8476", "--num_processes=2", "--process_id=1"]
    assert (status, out.split("\n")[:-1]) == (
        0,
        [f"[{a}]" for a in ["launch.py", *COMMAND, *place]],
    )


@pytest.mark.parametrize("name", ["tpu pod slice", "8-gpu node"])
def test_a_tpu_slice_and_one_node_find_their_place_alone(tmp_path: pathlib.Path, name: str) -> None:
    status, out = run_script(tmp_path, "run", name)
    assert (status, out.split("\n")[:-1]) == (0, [f"[{a}]" for a in ["launch.py", *COMMAND]])


@pytest.mark.parametrize("status", [1, 2, 75])
def test_the_commands_status_is_the_jobs_and_75_waits(tmp_path: pathlib.Path, status: int) -> None:
    ended, out = run_script(tmp_path, "run", "tpu pod slice", STATUS=str(status))
    assert ended == status
    assert ("slept" in out) == (status == 75)


@pytest.mark.parametrize(
    ("name", "driver", "install"),
    [
        ("tpu pod slice", "", "-r requirements.txt -e .[tpu]"),
        ("8-gpu node", "580.95.05", "-r requirements.txt -e .[gpu]"),
        ("8-gpu node", "570.86.15", "-r requirements.txt -e . jax[cuda12]"),
    ],
)
def test_setup_installs_jax_for_the_device(
    tmp_path: pathlib.Path, name: str, driver: str, install: str
) -> None:
    status, out = run_script(tmp_path, "setup", name, DRIVER=driver)
    assert (status, out.split("\n")[1:3]) == (
        0,
        [f"uv pip install {install}", "uv pip install gcsfs"],
    )


def test_resources() -> None:
    resources = {name: t["resources"] for name, t in TASKS.items()}
    assert resources["tpu pod slice"] == {
        "accelerators": "tpu-v5litepod-64",
        "job_recovery": {"recover_on_exit_codes": [75]},
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv5-lite"},
        "infra": "gcp/us-west4",
        "use_spot": True,
    }
    assert resources["old tpu"]["accelerator_args"] == {"runtime_version": "tpu-ubuntu2204-base"}
    assert "accelerator_args" not in resources["tpu on kubernetes"]
    assert "use_spot" not in resources["8-gpu node"]
    assert TASKS["4-node gpu cluster"]["num_nodes"] == 4
    assert TASKS["4-node gpu cluster"]["file_mounts"] == {"/data": "s3://b/store"}
    assert "s3fs" in task(workdir="s3://bucket/run")["setup"]


@pytest.mark.parametrize("workdir", ["runs/mine", "/runs/mine", "gs", "az://bucket/run"])
def test_a_workdir_that_ends_with_the_machines_is_refused(workdir: str) -> None:
    with tiny.refused(r"--workdir=.*give --workdir=gs://"):
        task(workdir=workdir)


def test_several_nodes_of_tpus_are_refused() -> None:
    with tiny.refused("--nodes=2", "nodes"):
        task(accelerators="tpu-v5litepod-64", nodes=2)


@pytest.mark.parametrize("name", TASKS)
def test_yaml_says_the_same(name: str) -> None:
    text = sky.to_yaml(TASKS[name])
    assert yaml.safe_load(text) == TASKS[name]
    assert "setup: |\n  set -e\n" in text


@pytest.mark.parametrize("act", [sky.check, sky.submit])
def test_without_skypilot_one_line_says_what_to_install(monkeypatch, act) -> None:
    monkeypatch.setitem(sys.modules, "sky", None)
    with pytest.raises(UserError, match=r"needs SkyPilot: pip install .*\[sky\]") as raised:
        act(task())
    assert "\n" not in str(raised.value)


def pretend(monkeypatch, launch) -> None:
    """A SkyPilot that takes every task."""
    fake, jobs = types.ModuleType("sky"), types.ModuleType("sky.jobs")
    jobs.launch = launch
    made = types.SimpleNamespace(validate_name=lambda: None)
    fake.Task = types.SimpleNamespace(
        from_yaml_config=lambda config: vars(made).update(config) or made
    )
    fake.jobs = jobs
    fake.stream_and_get = lambda request: request
    monkeypatch.setitem(sys.modules, "sky", fake)
    monkeypatch.setitem(sys.modules, "sky.jobs", jobs)


def test_submit_hands_the_task_over_and_says_how_to_see_it(monkeypatch, capsys) -> None:
    handed = []
    pretend(monkeypatch, lambda given: handed.append(given.run) or ([7], None))
    assert sky.submit(task()) == [7] and handed == [task()["run"]]
    assert "sky jobs logs 7" in (out := capsys.readouterr().out) and "sky jobs cancel 7" in out


def test_what_skypilot_says_is_one_line(monkeypatch) -> None:
    def launch(_task):
        raise RuntimeError("No cloud is enabled.\nRun: sky check")

    pretend(monkeypatch, launch)
    with pytest.raises(
        UserError, match=r"did not take the job: No cloud is enabled\. Run: sky check"
    ):
        sky.submit(task())


SKY = ["--on=sky", "--accelerators=H100:8"]
STUDY = "gs://bucket/study"


def test_a_sweep_submits_what_is_neither_finished_nor_under_way(
    bucket: pathlib.Path, monkeypatch, capfd
) -> None:
    ids, going_on = itertools.count(1), {}

    def submit(task) -> list[int]:
        going_on[job := next(ids)] = task["name"]
        return [job]

    monkeypatch.setattr(sky, "check", lambda _: None)
    monkeypatch.setattr(sky, "submit", submit)
    monkeypatch.setattr(sky, "alive", lambda ids: {i: going_on[i] for i in ids if i in going_on})
    file = "experiments/dead_trunk.py"

    def sweep(*flags: str) -> dict:
        args = ["sweep", f"--config={file}", f"--workdir={STUDY}", *SKY, *flags, "--json"]
        assert launch.main(args) == 0
        return json.loads(capfd.readouterr().out.splitlines()[-1])

    assert len(sweep("--dry_run")["points"]) == 32 and not going_on
    assert sweep()["jobs"] == list(range(1, 33))
    assert (bucket / "study" / "0" / "job").read_text() == "1\n"
    (bucket / "study" / "5" / "result.json").write_text("{}")
    del going_on[3]  # point 2 has failed
    going_on[9] = "a job of another user's, for example"
    again = sweep()
    assert [p["workdir"] for p in again["points"]] == [f"{STUDY}/{i}" for i in range(32) if i != 5]
    assert again["jobs"] == [1, 2, 33, 4, 5, 7, 8, 34, *range(10, 33)]


def test_what_is_under_way_is_asked_for(monkeypatch) -> None:
    pretend(monkeypatch, None)
    fake = sys.modules["sky"]
    record = types.SimpleNamespace(job_id=7, job_name="run")
    asked: list[dict] = []
    fake.jobs.queue_v2 = lambda **given: asked.append(given) or ([record], 1, {}, 1)
    fake.get = lambda request: request
    assert sky.alive([]) == {} and not asked
    assert sky.alive([7, 8]) == {7: "run"}
    assert asked == [{"refresh": False, "skip_finished": True, "job_ids": [7, 8]}]
    error = RuntimeError("No in-progress\nmanaged jobs.")

    def get(_):
        raise error

    fake.get = get
    with pytest.raises(UserError, match=r"which jobs still run: No in-progress managed"):
        sky.alive([7])
    error.cluster_status = None  # as of sky.exceptions.ClusterNotUpError: there is no controller
    assert sky.alive([7]) == {}


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_config_that_the_machines_lack_is_refused(
    tmp_path: pathlib.Path, monkeypatch, capfd, command: str
) -> None:
    outside = tmp_path / "mine.py"
    outside.write_text((ROOT / "experiments/dead_trunk.py").read_text())
    inside = str(ROOT / "experiments/dead_trunk.py")
    for config, remedy in (
        (str(outside), f"put it into {ROOT}/experiments"),
        (inside, "give --config=experiments/dead_trunk.py"),
        (f"{inside}:ARG", "give --config=experiments/dead_trunk.py:ARG"),
    ):
        assert launch.main([command, f"--config={config}", f"--workdir={STUDY}", *SKY]) == 2
        error = capfd.readouterr().err
        assert error.startswith(f"launch.py {command}: --config={config}: the machines of --on=sky")
        assert remedy in error and error.count("\n") == 1


def test_an_experiment_by_name_is_on_the_machines_and_a_package_is_no_checkout(
    tmp_path: pathlib.Path, monkeypatch, capfd
) -> None:
    args = ["train", "--config=digits", "--workdir=gs://bucket/run", *SKY]
    assert launch.main([*args, "--dry_run"]) == 0
    assert "--config=digits" in capfd.readouterr().out
    monkeypatch.setattr(sky, "ROOT", tmp_path)
    assert launch.main(args) == 2
    assert "--on=sky copies a checkout to its machines, and" in capfd.readouterr().err


def test_a_run_on_this_machine_is_not_one_on_those_of_sky(tmp_path, capfd) -> None:
    (tmp_path / "config.json").write_text(tiny.config().to_json())
    assert launch.main(["train", f"--from_run={tmp_path}", f"--workdir={STUDY}", *SKY]) == 2
    assert f"--from_run={tmp_path} is a folder of this machine" in capfd.readouterr().err


@pytest.fixture(scope="module")
def skypilot(tmp_path_factory):
    """SkyPilot, if it is installed, with a home folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
        yield pytest.importorskip("sky", reason="SkyPilot: pip install -e '.[sky]'")


@pytest.mark.parametrize("name", TASKS)
def test_skypilots_schema_takes_the_yaml(skypilot, name: str) -> None:
    from sky.utils import schemas
    from sky.utils.common_utils import validate_schema

    read = yaml.safe_load(sky.to_yaml(TASKS[name]))
    validate_schema(read, schemas.get_task_schema(), "task: ")
    validate_schema(read["resources"], schemas.get_resources_schema(), "resources: ")


@pytest.mark.parametrize(
    "name", ["tpu pod slice", "8-gpu node", "4-node gpu cluster", "kubernetes"]
)
def test_skypilot_understands_the_task(skypilot, name: str, capsys) -> None:
    asked = TASKS[name]
    got = sky.check(asked)
    (resources,) = got.resources
    accelerator, _, count = asked["resources"]["accelerators"].partition(":")
    assert resources.accelerators == {accelerator: int(count or 1)}
    assert resources.use_spot == ("use_spot" in asked["resources"])
    assert resources.job_recovery["recover_on_exit_codes"] == [75]
    assert (got.num_nodes, got.setup, got.run) == (asked["num_nodes"], asked["setup"], asked["run"])
    cloud = {"tpu pod slice": "GCP", "4-node gpu cluster": "AWS", "kubernetes": "Kubernetes"}
    assert str(resources.cloud) == cloud.get(name, "None")
    assert capsys.readouterr().out == ""  # it is for the YAML


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"accelerators": "H100:many"}, "<name> or <name>:<cnt>"),
        ({"accelerators": "H100:0"}, "positive"),
        ({"accelerators": "tpu-v5litepod-64", "infra": "aws"}, "GCP or Kubernetes"),
        ({"infra": "mars"}, "mars"),
        ({"workdir": "gs://bucket/-"}, "Invalid task name"),
        ({"nodes": 0}, "num_nodes"),
        ({"env": [("A-B", "1")]}, "A-B"),
    ],
)
def test_what_skypilot_refuses_is_one_line(skypilot, changed, said) -> None:
    with pytest.raises(UserError, match="SkyPilot refuses the task: ") as raised:
        sky.check(task(**changed))
    assert said in str(raised.value) and "\n" not in str(raised.value)
