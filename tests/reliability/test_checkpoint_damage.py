"""A damaged checkpoint is detected, named and set aside; the one before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_runs as real
from flax import struct

from mim_jax.errors import CheckpointError
from mim_jax.training.checkpoints import Checkpoints


class State(struct.PyTreeNode):
    step: Any
    params: Any


def make_state(step: int) -> State:
    noise = jax.random.normal(jax.random.key(step), (50_000,))
    return State(jnp.int32(step), {"w": noise, "b": jnp.full(3, 1.0 * step)})


SHAPES = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), make_state(0))


def save(workdir: Path, *steps: int) -> None:
    with Checkpoints(workdir, keep=9) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"step": step}, {"knn": 0.1 * step})


def arrays(folder: Path) -> Path:
    """The largest file: values of an array."""
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder: Path) -> Path:
    path = arrays(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def empty(folder: Path) -> Path:
    path = arrays(folder)
    path.write_bytes(b"")
    return path


def lose_a_shard(folder: Path) -> Path:
    path = arrays(folder)
    path.unlink()
    return path


def flip(path: Path, at: float = 0.5) -> Path:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 0x10
    path.write_bytes(bytes(content))
    return path


DAMAGES = {
    "truncated file": truncate,
    "empty file": empty,
    "missing shard file": lose_a_shard,
    "flipped byte in an array": lambda folder: flip(arrays(folder)),
    "flipped byte in the metadata of the arrays": lambda folder: flip(folder / "params" / "_METADATA"),
    "flipped byte in the metadata of the checkpoint": lambda folder: flip(folder / "_CHECKPOINT_METADATA"),
    "flipped byte in the sharding": lambda folder: flip(folder / "params" / "_sharding"),
    "flipped byte in the index": lambda folder: flip(folder / "params" / "manifest.ocdbt"),
    "flipped byte in the position": lambda folder: flip(folder / "data" / "metadata"),
    "flipped byte in the metrics": lambda folder: flip(folder / "metrics" / "metrics"),
    "flipped byte in the digests": lambda folder: flip(folder / "digests.json", at=0.0),
}


@pytest.mark.parametrize("name", list(DAMAGES))
def test_the_one_before_is_used(name, tmp_path, fault):
    save(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints" / "2"
    path = DAMAGES[name](folder)
    told = []
    with Checkpoints(tmp_path, trouble=lambda *what: told.append(what)) as checkpoints:
        state, data, step = checkpoints.restore_sound(SHAPES)
        np.testing.assert_array_equal(state.params["w"], make_state(1).params["w"])
        survived = (step, data) == (1, {"step": 1}) and checkpoints.all_steps() == [1] and not folder.exists()
        checkpoints.save(2, make_state(2))
    fault(f"damaged checkpoint: {name}", tried=1, survived=int(survived), lost="the steps since the one before")
    assert survived
    ((number, kind, sentence),) = told
    assert (number, kind) == (2, "damaged checkpoint")
    assert str(folder) in sentence and path.name in sentence and "set aside in" in sentence
    assert (tmp_path / "checkpoints" / "damaged" / "2").is_dir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_sound(SHAPES)[2] == 2


def test_every_byte_counts(tmp_path):
    """A flipped byte in any file of a checkpoint is seen; not in the marks that say only that something is finished."""
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints" / "1"
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 15
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore_params({"params": SHAPES.params})[1] == 1
    from mim_jax.training import checkpoint_digests as digests

    for path in files:
        before = path.read_bytes()
        flip(path, at=0.3)
        assert digests.fault(checkpoints.directory / "1") or path.name == "digests.json", path
        path.write_bytes(before)
    assert digests.fault(checkpoints.directory / "1") == ""


def test_several_are_damaged_and_then_all(tmp_path, fault):
    save(tmp_path, 1, 2, 3)
    for step in (2, 3):
        flip(arrays(tmp_path / "checkpoints" / str(step)))
    told = []
    with Checkpoints(tmp_path, trouble=lambda *what: told.append(what)) as checkpoints:
        assert checkpoints.restore_sound(SHAPES)[2] == 1
    assert [step for step, *_ in told] == [3, 2]
    fault("damaged checkpoints: the last two of three", tried=1, survived=1, lost="the steps since the first")
    flip(arrays(tmp_path / "checkpoints" / "1"))
    refused = 0
    for _ in range(2):  # nor does the command begin anew when it is given once more
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.raises(CheckpointError, match="all checkpoints of .* are damaged .steps 1, 2, 3, set aside in"),
        ):
            checkpoints.restore_sound(SHAPES)
        refused += 1
    lost = "the run is refused with a sentence; nothing is deleted"
    fault("damaged checkpoints: all", tried=1, survived=int(refused == 2), lost=lost)
    assert sorted(p.name for p in (tmp_path / "checkpoints" / "damaged").iterdir()) == ["1", "2", "3"]


def test_readers_name_it_and_move_nothing(tmp_path, fault):
    save(tmp_path, 1, 2)
    path = flip(arrays(tmp_path / "checkpoints" / "2"))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="checkpoints/2 is damaged .the file params/.*; take step 1"):
            checkpoints.restore_params({"params": SHAPES.params})
        assert checkpoints.restore_params({"params": SHAPES.params}, 1)[1] == 1
    assert path.exists() and not (tmp_path / "checkpoints" / "damaged").exists()
    flip(tmp_path / "checkpoints" / "2" / "metrics" / "metrics")
    with pytest.raises(CheckpointError, match="checkpoints/2 is damaged .the file metrics/metrics"):
        Checkpoints(tmp_path, read_only=True)
    fault("damaged checkpoint, read by an evaluation", tried=2, survived=2, lost="nothing: named, and left where it is")


def test_one_without_digests_is_still_read(tmp_path):
    """Of a run from before they were kept."""
    save(tmp_path, 1, 2)
    for step in "12":
        (tmp_path / "checkpoints" / step / "digests.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_sound(SHAPES)[2] == 2
    (tmp_path / "checkpoints" / "2" / "params" / "_METADATA").write_text("{no json")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_sound(SHAPES)[2] == 1


def test_a_run_goes_on_from_the_one_before(tmp_path, fault):
    """The whole command, to its end: same losses as without the damage."""
    words = real.command("mae", tmp_path / "run", training__epochs=1)
    assert real.finish(words).returncode == 0
    expected = real.losses(tmp_path / "run")
    steps = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    flip(arrays(tmp_path / "run" / "checkpoints" / str(steps[-1])))
    done = real.finish(words)
    survived = done.returncode == 0 and real.losses(tmp_path / "run") == expected and real.seen_once(tmp_path / "run")
    fault("damaged checkpoint in a run", tried=1, survived=int(survived), lost="nothing: the steps are done again")
    assert survived, done.stderr
    (event,) = real.events(tmp_path / "run", "damaged checkpoint")
    assert event["step"] == steps[-1] and f"checkpoints/{steps[-1]} is damaged" in event["text"]
    assert event["text"] in done.stderr
    assert json.loads((tmp_path / "run" / "resolved.json").read_text())["steps"]["total"] == 22
