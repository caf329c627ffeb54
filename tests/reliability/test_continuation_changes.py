"""What may change when a run goes on: devices, batch size, length. What may not. And who may write."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import real_runs as real
from etils import epath

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.pretrain import pretrain
from mim_jax.training import changes, lock
from mim_jax.training.course import Course, old_place
from mim_jax.training.lock import RunLock

SMALL = [
    "model.width=16", "model.depth=1", "model.heads=2", "method.decoder_width=16", "method.decoder_depth=1",
    "method.decoder_heads=2", "training.log_every=1", "training.epochs=2", "training.batch_size=256",
    "optimizer.warmup_epochs=1", "training.tensorboard=False", "training.checkpoint.every_epochs=0.2",
    "training.evaluate.pictures_every_epochs=0", "training.evaluate.knn_every_epochs=0", "training.checkpoint.keep=9",
    "training.evaluate.loss_every_epochs=0", "training.log_records=True",
]  # fmt: skip


def small(root, *more):
    return configs.load(str(root / "configs/mae/digits.py"), [*SMALL, *more])


# ---- The position in the data -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("records", "before", "after"), [(100, 10, 7), (1438, 64, 48), (1438, 48, 64), (97, 5, 96)])
def test_no_record_twice_and_none_skipped_under_another_batch_size(records, before, after):
    """At every step at which the batch size may change: the epoch goes on with the records that it has not seen."""
    first = Course(records, before)
    for step in range(2 * first.steps_per_epoch + 1):
        place = first.place(step)
        assert place["epoch"] * records + place["records"] >= step * before
        second = Course.going_on(place, records, after)
        assert second.place(step) == place or records - place["records"] < after  # then the next epoch begins
        begin = 0 if second.place(step)["epoch"] > place["epoch"] else place["records"]
        epoch, seen, number = second.place(step)["epoch"], begin, step
        while second.place(number)["epoch"] == epoch:
            assert second.place(number)["records"] == seen
            seen, number = seen + after, number + 1
        assert 0 <= records - seen < after  # the rest does not fill a batch and is dropped, as in every epoch
        assert second.place(number) == {"step": number, "epoch": epoch + 1, "records": 0}
        assert (number + second.shift) % second.steps_per_epoch == 0  # epochs begin where the schedules say so
        again = Course.going_on(second.place(step), records, after)
        assert [again.place(n) for n in range(step, number + 3)] == [second.place(n) for n in range(step, number + 3)]


def test_an_unchanged_batch_size_changes_nothing():
    for step in range(50):
        assert Course.going_on(old_place(step, 103, 10), 103, 10) == Course(103, 10)


@pytest.mark.slow
def test_another_batch_size_in_a_run(root, tmp_path, capfd, fault):
    """Three of five steps of an epoch at 256, the rest of the run at 128."""
    stop_after(small(root), tmp_path, 3)
    pretrain(small(root, "training.batch_size=128", "training.epochs=3"), tmp_path)
    found = real.records(tmp_path)
    sizes = [[len(line["index"]) for line in lines] for lines in found.values()]
    every = [[index for line in lines for index in line["index"]] for lines in found.values()]
    survived = sizes == [[256] * 3 + [128] * 5, [128] * 11, [128] * 11]
    survived &= all(len(set(epoch)) == len(epoch) == 1408 for epoch in every) and real.seen_once(tmp_path)
    lost = "nothing: no record twice; 30 records of the epoch fill no batch, as always"
    fault("another batch size in the middle of an epoch", tried=1, survived=int(survived), lost=lost)
    assert survived, sizes
    recorded = real.lines(tmp_path / "changes.jsonl")
    assert [{k: line[k] for k in ("step", "key", "before", "after")} for line in recorded] == [
        {"step": 3, "key": "training.batch_size", "before": 256, "after": 128},
        {"step": 3, "key": "training.epochs", "before": 2.0, "after": 3.0},
    ]
    assert "training.batch_size: 256 -> 128 from step 3 on" in capfd.readouterr().err
    rates = [line["lr"] for line in real.lines(tmp_path / "metrics.jsonl") if "lr" in line]
    epochs = [line["epoch"] for line in real.lines(tmp_path / "metrics.jsonl") if "lr" in line]
    assert epochs[-1] == 3.0 and len(rates) == 30
    # The schedule is that of a run of batches of 128 at the same place in its epochs, 6/11 of the first.
    assert rates[3] == pytest.approx(2e-3 * 6 / 11, rel=1e-5) and rates[-1] < 2e-4
    again = real.losses(tmp_path)
    pretrain(small(root, "training.batch_size=128", "training.epochs=3"), tmp_path)
    assert real.losses(tmp_path) == again and len(real.lines(tmp_path / "changes.jsonl")) == 2
    pretrain(small(root, "training.batch_size=128", "training.epochs=4"), tmp_path)
    assert len(real.losses(tmp_path)) == 41 and real.seen_once(tmp_path)


def stop_after(config, workdir, steps):
    """Trains so many steps, then stops as by a signal."""
    from mim_jax.pretrain import TrainData, check_all
    from mim_jax.training.loop import train

    class Stopping:
        name, every_steps = "stop", 1

        def __call__(self, variables, step):
            if step == steps - 1:  # while the next step is asked for
                os.kill(os.getpid(), signal.SIGTERM)
            return {}

    data = TrainData(config, workdir)
    train(config, workdir, check_all(config), data, lambda *_: (Stopping(),))
    data.open_at(0).close()


def test_what_may_not_change_is_refused_with_the_difference(root, tmp_path):
    stop_after(small(root), tmp_path, 2)
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.002 -> 0.003; .*|.*model.width: 16 -> 32"):
        pretrain(small(root, "optimizer.lr=0.003", "model.width=32", "training.batch_size=128"), tmp_path)
    assert configs.load_json(tmp_path / "config.json").training.batch_size == 256
    assert not (tmp_path / "changes.jsonl").exists()
    assert changes.may_change("mesh.data") and changes.may_change("training.checkpoint.keep")
    assert not changes.may_change("data.fraction") and not changes.may_change("seed")


# ---- Other devices -------------------------------------------------------------------------------------------------

HIDDEN = """
import sys, hashlib, jax, numpy as np
from pathlib import Path
from mim_jax import config as configs
from mim_jax.pretrain import TrainData, check_all
from mim_jax.methods.base import Progress
from mim_jax.training.sharding import global_batch, make_mesh, replicated
from mim_jax.training.state import run_key
from mim_jax.training.views import Views
config = configs.load(sys.argv[1])
method, mesh, views = check_all(config), make_mesh(config.mesh), Views.from_config(config.data)
batch = global_batch(next(TrainData(config, Path(sys.argv[1])).open_at(7)), mesh)
key = jax.random.fold_in(run_key(config.seed, "train"), 7)
draws = jax.jit(lambda b: method.draw({}, {}, {}, views.prepare(b), key, Progress.at(7, 88, 22)),
                out_shardings=replicated(mesh))(batch)
digest = hashlib.sha256()
for leaf in jax.tree.leaves(draws):
    digest.update(np.ascontiguousarray(leaf).tobytes())
print("HIDDEN", jax.device_count(), digest.hexdigest())
"""


@pytest.mark.slow
def test_one_device_then_eight_then_two(tmp_path, fault):
    ours, theirs, masks = tmp_path / "ours", tmp_path / "theirs", {}
    assert real.finish(real.command("mae", theirs, training__epochs=3)).returncode == 0
    for devices, epochs in ((1, 1), (8, 2), (2, 3)):
        words = real.command("mae", ours, training__epochs=3)
        log = tmp_path / f"log_{devices}"
        with real.started(words, log, devices) as process:
            if epochs < 3:
                assert real.until(lambda: len(real.losses(ours)) >= 22 * epochs - 4, process), log.read_text()  # noqa: B023
                process.send_signal(signal.SIGTERM)
            assert process.wait(240) == 0, log.read_text()
        out = subprocess.run(
            [sys.executable, "-c", HIDDEN, str(ours)], env=real.environment(devices), capture_output=True, text=True
        )
        assert "HIDDEN" in out.stdout, out.stderr
        count, masks[devices] = out.stdout.split("HIDDEN")[1].split()
        assert int(count) == devices
    got, want = (np.array([loss for _, loss in real.losses(path)]) for path in (ours, theirs))
    error = float(np.abs(got / want - 1).max()) if got.shape == want.shape == (66,) else float("inf")
    survived = error < 1e-5 and len(set(masks.values())) == 1 and real.records(ours) == real.records(theirs)
    lost = f"nothing: masks and records identical, losses within {error:.1e} relative"
    fault("continued on 8, then on 2 devices instead of 1", tried=2, survived=2 * survived, lost=lost)
    assert survived, (error, masks)


# ---- One writer ----------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from mim_jax.training.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_lets_go(root, tmp_path, fault):
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, env=real.environment(), stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        done = real.finish(real.command("mae", tmp_path, training__epochs=1))
        sentence = f"{tmp_path} is being written by process {holder.pid} on {os.uname().nodename} since 20"
        refused = done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
        fault("a second process in the same workdir", tried=1, survived=int(refused), lost="nothing: refused")
        assert refused, done.stderr
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock"]
        holder.kill()
    with RunLock(tmp_path):
        pass
    fault("restart at once after SIGKILL of the owner", tried=1, survived=1, lost="nothing: the lock died with it")


def test_without_locks_an_object_with_a_heartbeat_stands_in(tmp_path, monkeypatch):
    """As on gs://, where nothing can be locked."""
    monkeypatch.setattr(lock, "BEAT", 0.05)
    first, second = (lock._ObjectLock(str(tmp_path)) for _ in range(2))
    assert first.take() == ""
    refusal = second.take()
    assert f"process {os.getpid()}" in refusal and "remove" in refusal and "gcloud storage rm" in refusal
    path = epath.Path(tmp_path) / lock.FILE
    before = json.loads(path.read_text())["beat"]
    for _ in range(200):
        if json.loads(path.read_text())["beat"] > before:
            break
        time.sleep(0.02)
    else:
        pytest.fail("no heartbeat")
    first.give_back()
    assert not path.exists()
    path.write_text(json.dumps({"host": "far", "pid": 1, "since": "long ago", "beat": time.time() - 1000}))
    assert second.take() == ""  # its owner is dead
    second.give_back()


def test_a_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    with RunLock(tmp_path), pytest.raises(ConfigError, match="is being written by process"), RunLock(tmp_path):
        pass
    assert hashlib.sha256((tmp_path / ".lock").read_bytes()).hexdigest()  # the file stays; it locks nothing by itself
