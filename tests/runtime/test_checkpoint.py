"""Saving, restoring, falling back; the digest that says whether a checkpoint is whole."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception import UserError
from inception.runtime import checkpoint, sharding


def state(step: int) -> dict:
    key = jax.random.key(step)
    return {
        "step": jnp.int32(step),
        "params": {"1x1": jax.random.normal(key, (64, 65)), "b": jnp.zeros(3)},
        "opt_state": ({"trace": jnp.ones((64, 65)) * step}, ()),
        "average": {},
    }


def template(mesh):
    return sharding.replicated_shapes(lambda: state(0), mesh)


@pytest.fixture
def mesh():
    return sharding.make_mesh()


@pytest.fixture
def saved(tmp_path: pathlib.Path, mesh) -> pathlib.Path:
    """A workdir with checkpoints 2 (the best), 4 and 5; 1 and 3 were let go."""
    checkpoints = checkpoint.Checkpoints(str(tmp_path), keep=2)
    for step, top1 in ((1, 0.1), (2, 0.9), (3, 0.5), (4, None), (5, 0.6)):
        checkpoints.save(step, sharding.replicate(state(step), mesh), top1=top1)
    checkpoints.close()
    return tmp_path


def steps(workdir: pathlib.Path) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def test_classes_come_back_as_they_are_named_and_others_are_refused(tmp_path) -> None:
    checkpoint.check_classes(str(tmp_path), ("ant",))  # nothing written yet
    names = ("007", " 1e5", "Guide dog", "caf\u2028\x85\x0c", "\udcff", "7")
    checkpoint.write_classes(str(tmp_path), names)
    assert checkpoint.read_classes(str(tmp_path)) == names
    checkpoint.check_classes(str(tmp_path), names)
    with pytest.raises(UserError, match="class zebra where Guide dog was"):
        checkpoint.check_classes(str(tmp_path), (*names[:2], "zebra", *names[3:]))
    checkpoint.write_classes(str(tmp_path), checkpoint.numbered(2))  # as convert does
    checkpoint.check_classes(str(tmp_path), ("ant", "bee"))
    with pytest.raises(UserError, match="class ant where class 0 was"):
        checkpoint.check_classes(str(tmp_path), ("ant", "bee", "cat"))
    (tmp_path / "classes.txt").write_bytes(b"ant\r\nbee\r\n")
    assert checkpoint.read_classes(str(tmp_path)) == ("ant", "bee")


def test_the_last_and_the_best_are_kept(saved: pathlib.Path) -> None:
    assert steps(saved) == [2, 4, 5]
    assert checkpoint.Checkpoints(str(saved)).best_step() == 2


def test_what_is_restored_is_what_was_saved(saved: pathlib.Path, mesh) -> None:
    restored = checkpoint.Checkpoints(str(saved)).restore(template(mesh))
    assert checkpoint.digest(restored) == checkpoint.digest(state(5))
    assert restored["params"]["1x1"].sharding.is_fully_replicated
    assert len(restored["params"]["1x1"].sharding.device_set) == 8
    as_dicts = checkpoint.Checkpoints(str(saved)).restore(None, step=2)
    np.testing.assert_array_equal(as_dicts["params"]["1x1"], state(2)["params"]["1x1"])


def test_nothing_saved_is_none(tmp_path: pathlib.Path, mesh) -> None:
    assert checkpoint.Checkpoints(str(tmp_path)).restore(template(mesh)) is None


def biggest(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder: pathlib.Path) -> None:
    file = biggest(folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_bits(folder: pathlib.Path) -> None:
    file = biggest(folder)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


def remove_file(name: str):
    def remove(folder: pathlib.Path) -> None:
        for file in folder.rglob(name):
            file.unlink()

    return remove


def forge_digest(folder: pathlib.Path) -> None:
    file = folder / "check" / "metadata"
    file.write_text(file.read_text().replace('"sha256": "', '"sha256": "0'))


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [truncate, flip_bits, forge_digest, remove_file("manifest.ocdbt"), remove_file("_METADATA")],
)
def test_a_damaged_newest_falls_back_and_says_so(saved: pathlib.Path, mesh, damage, capfd) -> None:
    damage(saved / "checkpoints" / "5")
    checkpoints = checkpoint.Checkpoints(str(saved))
    restored = checkpoints.restore(template(mesh))
    assert checkpoint.digest(restored) == checkpoint.digest(state(4))
    assert "checkpoints/5 is damaged" in capfd.readouterr().err
    assert (saved / "damaged" / "5").is_dir()  # moved aside, not lost
    checkpoints.save(5, sharding.replicate(state(5), mesh))
    checkpoints.close()
    again = checkpoint.Checkpoints(str(saved)).restore(template(mesh))
    assert checkpoint.digest(again) == checkpoint.digest(state(5))


def test_reading_only_moves_nothing(saved: pathlib.Path, capfd) -> None:
    truncate(saved / "checkpoints" / "5")
    restored = checkpoint.Checkpoints(str(saved), read_only=True).restore(None)
    assert int(restored["step"]) == 4
    assert "trying the one before" in capfd.readouterr().err
    assert steps(saved) == [2, 4, 5]


def test_all_damaged_is_an_error_that_deletes_nothing(saved: pathlib.Path, mesh) -> None:
    for step in (2, 4, 5):
        truncate(saved / "checkpoints" / str(step))
    with pytest.raises(UserError, match="no other to fall back to"):
        checkpoint.Checkpoints(str(saved)).restore(template(mesh))
    assert steps(saved) == [2, 4, 5]


def test_another_codes_checkpoints_stay_where_they_are(saved: pathlib.Path, mesh) -> None:
    other = sharding.replicated_shapes(lambda: state(0) | {"new": jnp.zeros(2)}, mesh)
    with pytest.raises(UserError, match="or another version's"):
        checkpoint.Checkpoints(str(saved)).restore(other)
    assert steps(saved) == [2, 4, 5]


def test_a_step_saved_before_its_evaluation_may_still_be_the_best(
    saved: pathlib.Path, mesh
) -> None:
    """As when SIGTERM came in the evaluation, and the next start evaluated."""
    checkpoints = checkpoint.Checkpoints(str(saved))
    checkpoints.save(4, sharding.replicate(state(4), mesh), top1=0.95)
    assert checkpoints.best_step() == 4
    for step in (6, 7):
        checkpoints.save(step, sharding.replicate(state(step), mesh), top1=0.1)
    checkpoints.close()
    assert steps(saved) == [4, 6, 7]
    assert checkpoint.Checkpoints(str(saved)).best_step() == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_found_before_training(saved: pathlib.Path) -> None:
    folder = str(saved / "checkpoints")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", READ_ONLY, folder], capture_output=True, text=True
    )
    assert "trial cannot be written: Read-only file system" in done.stderr


READ_ONLY = """
import subprocess, sys
from inception.runtime import checkpoint
folder = sys.argv[1]
subprocess.run(["mount", "--bind", folder, folder], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
checkpoint.Checkpoints(folder.removesuffix("/checkpoints"))
"""


def test_a_full_disk_keeps_what_is_there(saved: pathlib.Path, mesh, monkeypatch) -> None:
    checkpoints = checkpoint.Checkpoints(str(saved))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match=r"steps \[2, 4, 5\] are kept; make room"):
        checkpoints.save(6, sharding.replicate(state(6), mesh))
    assert steps(saved) == [2, 4, 5]


def test_digest_tells_values_names_and_dtypes_apart() -> None:
    a = {"a": jnp.zeros(3), "b": jnp.ones(3)}
    others = (
        {"a": jnp.ones(3), "b": jnp.zeros(3)},
        {"a": jnp.zeros(3), "c": jnp.ones(3)},
        {"a": jnp.zeros(3, jnp.int32), "b": jnp.ones(3)},
        {"a": jnp.zeros((3, 1)), "b": jnp.ones(3)},
    )
    assert len({checkpoint.digest(tree) for tree in (a, *others)}) == 5
    assert checkpoint.digest(dict(reversed(a.items()))) == checkpoint.digest(a)
