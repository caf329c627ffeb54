"""Whole runs on real images: continuing, stopping, refusing, numbers that are not finite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError, MimError
from mim_jax.pretrain import TrainData, check_all, pretrain
from mim_jax.training import nonfinite
from mim_jax.training.loop import train
from mim_jax.training.runs import load_run

SMALL = [
    "model.width=16", "model.depth=1", "model.heads=2", "method.decoder_width=16", "method.decoder_depth=1",
    "method.decoder_heads=2", "training.log_every=1", "training.epochs=2", "training.batch_size=256",
    "optimizer.warmup_epochs=1", "training.tensorboard=False", "training.evaluate.images=64",
    "training.checkpoint.every_epochs=1", "training.evaluate.pictures_every_epochs=0",
    "training.evaluate.knn_every_epochs=0", "training.evaluate.loss_every_epochs=1",
    "optimizer.ema=0.9", "training.accumulate=2",
]  # fmt: skip


def small(root, *more):
    return configs.load(str(root / "configs/mae/digits.py"), [*SMALL, *more])


def losses(workdir: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A run of ten steps that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("run")
    pretrain(small(root), workdir)
    return workdir


def test_a_run_leaves_what_it_promises(finished):
    resolved = json.loads((finished / "resolved.json").read_text())
    assert resolved["steps"] == {"total": 10, "per epoch": 5}
    assert resolved["parameters"]["total"] == sum(v for k, v in resolved["parameters"].items() if k != "total")
    assert {"memory of the compiled step", "versions", "devices", "learning rate"} <= set(resolved)
    assert list(losses(finished)) == list(range(1, 11))
    assert losses(finished)[10] < losses(finished)[1]
    assert (finished / "index.html").exists() and (finished / "config.json").exists()
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert any("val_loss" in line for line in lines)


def test_validation_loss_is_the_same_at_every_look(finished, root):
    run = load_run(finished)
    assert run.step == 10 and len(run.checkpoint_hash) == 64
    fresh = run.fresh()
    assert jax.tree.structure(fresh.params) == jax.tree.structure(run.variables.params)
    differs = jax.tree.map(lambda a, b: bool((a != b).any()), fresh.params, run.variables.params)
    assert any(jax.tree.leaves(differs))


class Stopping:
    """An evaluator that stops the run like a fault of the machine."""

    name, every_steps = "fault", 7

    def __call__(self, variables, step):
        raise KeyboardInterrupt


def test_continuing_gives_the_same_losses_bit_for_bit(finished, root, tmp_path):
    config = small(root)
    data = TrainData(config, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, check_all(config), data, lambda *_: (Stopping(),))
    assert max(losses(tmp_path)) == 7
    pretrain(config, tmp_path)
    assert losses(tmp_path) == losses(finished)
    ours, theirs = load_run(tmp_path), load_run(finished)
    assert ours.checkpoint_hash == theirs.checkpoint_hash


def test_a_changed_config_is_refused_with_the_difference(finished, root):
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.002 -> 0.003"):
        pretrain(small(root, "optimizer.lr=0.003"), finished)
    before = losses(finished)
    pretrain(small(root, "training.log_every=5", "model.scan=True"), finished)
    assert losses(finished) == before


def test_sigterm_saves_and_exits_with_zero(root, tmp_path):
    command = [sys.executable, "-m", "mim_jax", "train", "--config", str(root / "configs/mae/digits.py")]
    command += [f"--config.{text}" for text in SMALL if not text.startswith("training.epochs")]
    command += ["--config.training.epochs=2000", "--workdir", str(tmp_path)]
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        for _ in range(600):
            if (tmp_path / "metrics.jsonl").exists() and len(losses(tmp_path)) >= 3:
                break
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "the same command continues from there" in err
    assert load_run(tmp_path).step == max(losses(tmp_path))


class Poisoned(TrainData):
    """Real data, but for one batch of infinities."""

    def open_at(self, step):
        for number, batch in enumerate(super().open_at(step), start=step):
            image = batch["image"].astype(np.float32) / 255
            yield {**batch, "image": np.full_like(image, np.inf) if number == 3 else image}


def test_nonfinite_stop_writes_a_bundle_that_replays(root, tmp_path, capsys):
    config = small(root)
    with pytest.raises(MimError, match="not finite at step 3.*doctor nan"):
        train(config, tmp_path, check_all(config), Poisoned(config, tmp_path))
    bundle = tmp_path / "nonfinite" / "step_00000003"
    report = nonfinite.replay(bundle)
    assert report["first non-finite array"] == "batch/image" and report["step"] == 3
    assert len(report["key"]) == 2 and set(report["parameter norms"]) == set(report["gradient norms"])
    assert len(report["records"]) == 256
    assert "first non-finite array: batch/image" in capsys.readouterr().out
    with pytest.raises(MimError, match="is not a non-finite bundle"):
        nonfinite.replay(tmp_path)


def test_nonfinite_skip_leaves_the_batch_out_and_goes_on(root, tmp_path):
    config = small(root, "training.on_nonfinite=skip")
    state = train(config, tmp_path, check_all(config), Poisoned(config, tmp_path))
    assert int(state.step) == 10 and int(state.skipped) == 1 and not bool(state.hold)
    assert list(losses(tmp_path)) == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    "change, words",
    [
        (
            "training.batch_size=4096",
            "batch_size 4096 is larger than the 1438 training records; lower training.batch_size",
        ),
        ("training.batch_size=250", "not divisible by 8 device shards.*nearest valid: 256"),
        ("model.heads=3", "model.heads 3 does not divide"),
        ("model.patch_size=5", "patch of 5 does not divide"),
        ("method.mask_ratio=1.2", "mask_ratio 1.2"),
        ("method.mask_ration=0.5", "did you mean 'mask_ratio'"),
        ("mesh.fsdp=3", "does not fit 8 devices"),
    ],
)
def test_impossible_configs_fail_before_anything_is_compiled(root, tmp_path, change, words):
    with pytest.raises(MimError, match=words):
        pretrain(small(root, change), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
