"""Checkpoints: what goes in comes out, on any mesh; what is damaged is said to be."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mim_jax.errors import CheckpointError
from mim_jax.training.checkpoint_items import params_hash
from mim_jax.training.checkpoints import Checkpoints


class State(struct.PyTreeNode):
    """The fields that matter of a training state."""

    step: Any
    params: Any
    opt_state: Any
    extra: Any
    ema: Any
    skipped: Any


OPTIMIZER = optax.partition({"on": optax.adam(1e-3), "off": optax.set_to_zero()}, {"w": "on", "b": "off"})


def make_state(step: int = 0, mesh: Mesh | None = None, ema: bool = False, rows: int = 8) -> State:
    params = {"w": jnp.arange(rows * 4.0).reshape(rows, 4) + step, "b": jnp.ones(3, jnp.bfloat16) * step}
    if mesh is not None:
        params["w"] = jax.device_put(params["w"], NamedSharding(mesh, PartitionSpec("fsdp")))
    opt_state = OPTIMIZER.init(params)
    opt_state = jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), opt_state)
    moved = {"centre": jnp.full(5, 0.1 * step)}
    return State(jnp.int32(step), params, opt_state, moved, dict(params) if ema else {}, jnp.int32(2))


def abstract(state: State) -> State:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)


def mesh_of(count: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:count]), ("fsdp",))


def assert_equal(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_everything_comes_back(tmp_path):
    state = make_state(30)
    with Checkpoints(tmp_path, meta={"seed": 7}) as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.save(30, state, {"epoch": 2, "next": [1, 2]}, {"val_loss": 0.5})
    with Checkpoints(tmp_path) as checkpoints:
        got, data, step = checkpoints.restore(abstract(make_state(0)))
        assert (data, step) == ({"epoch": 2, "next": [1, 2]}, 30)
        assert checkpoints.read_meta() == {"seed": 7, "step": 30, "metrics": {"val_loss": 0.5}}
    assert_equal(got, state)
    assert got.ema == {}


@pytest.mark.parametrize("data", [None, b"\x00\xffposition", {"a": 1}])
def test_positions_in_the_data(tmp_path, data):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), data)
        assert checkpoints.restore(abstract(make_state()))[1] == data


@pytest.mark.parametrize(("before", "after"), [(8, 2), (2, 8), (8, 1)])
def test_restores_onto_another_mesh(tmp_path, before, after):
    state = make_state(5, mesh_of(before), ema=True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state)
        wanted = abstract(make_state(0, mesh_of(after), ema=True))
        got, _, _ = checkpoints.restore(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), got, state)
    assert got.params["w"].sharding == wanted.params["w"].sharding
    assert got.opt_state.inner_states["on"].inner_state[0].mu["w"].sharding == wanted.params["w"].sharding
    assert len(got.ema["w"].addressable_shards) == after


def test_the_step_that_follows_may_donate_the_arrays(tmp_path):
    state = make_state(1)
    before = jax.tree.map(np.array, state.params)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda a: a * 0 - 1, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(3):
            state = overwrite(state)
        checkpoints.wait()
        got, _, _ = checkpoints.restore(abstract(state))
    assert_equal(got.params, before)


def test_keeps_the_last_and_the_best(tmp_path):
    with Checkpoints(tmp_path, keep=2, metric="knn") as checkpoints:
        assert checkpoints.best_step() is None
        for step, metrics in [
            (1, {"knn": 0.3}),
            (2, {"knn": 0.9, "other": 1.0}),
            (3, None),
            (4, {"knn": 0.5}),
            (5, {}),
        ]:
            checkpoints.save(step, make_state(step), None, metrics)
        checkpoints.save(6, make_state(6), None, {"knn": float("nan")})
        checkpoints.wait()
        assert checkpoints.all_steps() == [2, 5, 6]
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (6, 2)
    with Checkpoints(tmp_path, keep=2, metric="knn", read_only=True) as checkpoints:
        assert checkpoints.best_step() == 2
        got, _, step = checkpoints.restore(abstract(make_state()), "best")
    assert step == 2 and int(got.step) == 2


def test_the_lowest_loss_is_the_best(tmp_path):
    with Checkpoints(tmp_path, keep=1, metric="val_loss") as checkpoints:
        for step, loss in [(1, 0.9), (2, 0.1), (3, 0.5), (4, 0.4)]:
            checkpoints.save(step, make_state(step), None, {"val_loss": loss})
        checkpoints.wait()
        assert checkpoints.all_steps() == [2, 4] and checkpoints.best_step() == 2


def test_without_keep_best_only_the_last_stay(tmp_path):
    with Checkpoints(tmp_path, keep=1, keep_best=False) as checkpoints:
        for step, knn in [(1, 0.9), (2, 0.1)]:
            checkpoints.save(step, make_state(step), None, {"knn": knn})
        checkpoints.wait()
        assert checkpoints.all_steps() == [2]


def test_saved_steps_are_left_alone(tmp_path):
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        assert checkpoints.save(5, make_state(5))
        assert not checkpoints.save(5, make_state(99), force=True)
        assert not checkpoints.save(3, make_state(3))
        assert checkpoints.save(4, make_state(4), force=True)
        checkpoints.wait()
        assert checkpoints.all_steps() == [4, 5]
        assert int(checkpoints.restore(abstract(make_state()), 5)[0].step) == 5


def test_only_the_weights(tmp_path):
    """An evaluation knows nothing of the optimizer."""
    state = make_state(3, mesh_of(8))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        got, step = checkpoints.restore_params({"params": None, "extra": None, "ema": None})
        assert step == 3 and got["ema"] == {}
        assert_equal(got["params"], jax.tree.map(np.asarray, state.params))
        assert_equal(got["extra"], state.extra)
        replicated = NamedSharding(mesh_of(2), PartitionSpec())
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated), state.params)
        got, _ = checkpoints.restore_params({"params": shapes, "ema": {}}, 3)
        assert got["params"]["w"].sharding == replicated and got["ema"] == {}


def test_unfinished_checkpoints_are_not_seen_and_swept_up(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
    left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", left)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.all_steps() == [1] and left.exists()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.all_steps() == [1]
        assert int(checkpoints.restore(abstract(make_state()))[0].step) == 1
        assert not left.exists()
        checkpoints.save(2, make_state(2))
        checkpoints.wait()
        assert checkpoints.all_steps() == [1, 2]


def remove(folder) -> None:
    shutil.rmtree(folder / "params")


def truncate(folder) -> None:
    for file in (folder / "params").rglob("*"):
        if file.is_file() and "d" in file.parts[-2:-1]:
            file.write_bytes(file.read_bytes()[:10])


def garble(folder) -> None:
    (folder / "params" / "_METADATA").write_text("{no json")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # left by tensorstore's own threads
@pytest.mark.parametrize("damage", [remove, truncate, garble])
def test_a_damaged_checkpoint_is_named_with_the_mend(tmp_path, damage):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.save(2, make_state(2))
    damage(tmp_path / "checkpoints" / "2")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"checkpoints/2 "):
            checkpoints.restore(abstract(make_state()))
        with pytest.raises(CheckpointError, match="is damaged .*; take step 1, or let `mim-jax train` set it aside"):
            checkpoints.restore_params({"params": abstract(make_state()).params})
        assert int(checkpoints.restore(abstract(make_state()), 1)[0].step) == 1


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere holds no checkpoints"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="holds no finished checkpoint"):
            checkpoints.restore(abstract(make_state()))
        checkpoints.save(4, make_state(4))
        with pytest.raises(CheckpointError, match="has no step 5; it has 4$"):
            checkpoints.restore(abstract(make_state()), 5)
        with pytest.raises(CheckpointError, match="has no checkpoint saved with 'knn'; it has 4$"):
            checkpoints.restore(abstract(make_state()), "best")


def test_another_model_is_refused_by_name(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
        with pytest.raises(CheckpointError, match=r"params/w is float32\(8, 4\) there, float32\(16, 4\) here"):
            checkpoints.restore(abstract(make_state(rows=16)))
        with pytest.raises(CheckpointError, match="has no 'ema'"):
            checkpoints.restore(abstract(make_state(ema=True)))
        other = abstract(make_state())
        with pytest.raises(CheckpointError, match="extra/queue is missing there"):
            checkpoints.restore(other.replace(extra={**other.extra, "queue": other.step}))
        with pytest.raises(CheckpointError, match="params/b is there but not in this config"):
            checkpoints.restore_params({"params": {"w": other.params["w"]}})


def test_frozen_parts_are_written_once(tmp_path):
    frozen = {"teacher": {"w": jnp.arange(6.0).reshape(2, 3)}}
    shapes = jax.eval_shape(lambda: frozen)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_frozen({})
        assert not (tmp_path / "frozen").exists()
        assert checkpoints.restore_frozen({}) == {}
        with pytest.raises(CheckpointError, match="frozen is missing"):
            checkpoints.restore_frozen(shapes)
        checkpoints.save_frozen(frozen)
        checkpoints.save_frozen(jax.tree.map(lambda a: a + 1, frozen))
        assert_equal(checkpoints.restore_frozen(shapes), frozen)
        with pytest.raises(CheckpointError, match="frozen/teacher/w is float32"):
            checkpoints.restore_frozen({"teacher": {"w": jax.ShapeDtypeStruct((3, 3), jnp.float32)}})
        (tmp_path / "frozen" / "_METADATA").write_text("")
        with pytest.raises(CheckpointError, match="frozen is damaged"):
            checkpoints.restore_frozen(shapes)


def test_saving_starts_the_clock_anew(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        clock = checkpoints.clock(1e-9)
        assert clock.due()
        clock.reset = lambda: setattr(clock, "was_reset", True)
        checkpoints.save(1, make_state(1))
        assert clock.was_reset


def test_hash_depends_on_values_and_names_not_on_placement():
    params = {"a": {"w": jnp.arange(16.0).reshape(8, 2)}, "b": jnp.ones(3, jnp.bfloat16)}
    sharded = jax.device_put(params["a"]["w"], NamedSharding(mesh_of(8), PartitionSpec("fsdp")))
    same = params_hash(params)
    assert len(same) == 64
    assert params_hash({"b": params["b"], "a": {"w": sharded}}) == same
    assert params_hash(jax.tree.map(np.asarray, params)) == same
    assert params_hash({**params, "b": params["b"] * 2}) != same
    assert params_hash({**params, "b": params["b"].astype(jnp.float32)}) != same
    assert params_hash({"a": {"w": params["a"]["w"].reshape(2, 8)}, "b": params["b"]}) != same
    assert params_hash({"a": {"v": params["a"]["w"]}, "b": params["b"]}) != same


PROCESS = """
import json, os, signal, sys, time
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
rank, port, workdir = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, rank)
import dataclasses
import jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from flax import struct
from typing import Any
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.checkpoint_items import params_hash
from mim_jax.training.metrics import Writers
from mim_jax.training.signals import StopRequested

class State(struct.PyTreeNode):
    step: Any
    params: Any

mesh = jax.make_mesh((2,), ("fsdp",))
rows, whole = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec())
placement = State(whole, {"w": rows})
start = jax.jit(lambda: State(jnp.int32(0), {"w": jnp.arange(8.0).reshape(4, 2)}), out_shardings=placement)
state, stopped = start(), None
move = jax.jit(lambda s: s.replace(step=s.step + 1, params=jax.tree.map(lambda p: p + 1, s.params)))
writers = Writers(workdir, tensorboard=False, resumed_step=0)
with StopRequested() as stop, Checkpoints(workdir) as checkpoints:
    for step in range(1, 1000):
        state = jax.block_until_ready(move(state))
        writers.write(step, {"process": rank})
        if rank == 1 and step == 5:
            os.kill(os.getpid(), signal.SIGINT)  # passed on as SIGTERM to both
        if stop.agreed(step):
            stopped = step
            checkpoints.save(step, state, {"step": step})
            break
        time.sleep(0.02)  # the runtime looks for signals once a second
    checkpoints.wait()
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
    got, data, step = checkpoints.restore(shapes)
    held = np.asarray(got.params["w"].addressable_data(0))
    print("RESULT", json.dumps({"stopped": stopped, "step": step, "data": data, "state_step": int(got.step),
        "rows": held.tolist(), "hash": params_hash(got.params), "processes": jax.process_count()}))
"""


def test_two_processes_stop_save_and_restore_together(tmp_path, root):
    """One of two processes is told to stop: both stop at the same step and write one checkpoint."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(root)}
    words = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*words, str(rank), port, str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    results = [json.loads(o.split("RESULT ")[1]) for o in outputs]
    assert [r["processes"] for r in results] == [2, 2]
    stopped = results[0]["stopped"]
    assert stopped and stopped > 5
    for rank, result in enumerate(results):
        assert result["stopped"] == result["step"] == result["state_step"] == stopped
        assert result["data"] == {"step": stopped}
        np.testing.assert_array_equal(result["rows"], np.arange(8.0).reshape(4, 2)[2 * rank : 2 * rank + 2] + stopped)
    whole = {"w": np.arange(8, dtype=np.float32).reshape(4, 2) + stopped}
    assert results[0]["hash"] == results[1]["hash"] == params_hash(whole)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, stopped + 1))
    assert {line["process"] for line in lines} == {0}
