"""Several real processes over JAX's distributed runtime: the same run as one process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import processes
import pytest

from mim_jax import distributed
from mim_jax.errors import ConfigError
from mim_jax.methods.registry import METHODS
from mim_jax.training.checkpoints import Checkpoints

WORKER = Path(__file__).with_name("steps_worker.py")
DIGITS = [
    "model.width=16", "model.depth=1", "model.heads=2", "method.decoder_width=16", "method.decoder_depth=1",
    "method.decoder_heads=2", "training.log_every=1", "training.batch_size=256", "optimizer.warmup_epochs=1",
    "training.tensorboard=False", "training.evaluate.images=64", "training.checkpoint.every_epochs=1",
    "training.evaluate.pictures_every_epochs=1", "training.evaluate.knn_every_epochs=1", "training.epochs=2",
    "training.evaluate.loss_every_epochs=1", "optimizer.ema=0.9",
]  # fmt: skip


def train_words(workdir: Path, *more: str) -> list[str]:
    return ["train", "--config", "configs/mae/digits.py", "--workdir", str(workdir),
            *(f"--config.{change}" for change in (*DIGITS, *more))]  # fmt: skip


def logged(workdir: Path) -> dict[tuple[int, str], float]:
    """(step, name) -> value of everything that does not measure time."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = {"step", "images_per_sec", "mfu", "data_wait"}
    return {(line["step"], name): value for line in lines for name, value in line.items() if name not in timed}


def assert_same(ours: dict, theirs: dict, rtol: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value, rtol=rtol, err_msg=str(key))


@pytest.fixture(scope="module", autouse=True)
def _in_the_project(root):
    before = Path.cwd()
    os.chdir(root)
    yield
    os.chdir(before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process, and its files, before anything was evaluated."""
    workdir = tmp_path_factory.mktemp("alone")
    processes.run(train_words(workdir))
    return workdir, files_of(workdir)


def files_of(workdir: Path) -> list[str]:
    return [path for path in processes.folder(workdir) if "checkpoints" not in path]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_train_and_judge_like_one(alone, tmp_path, count, fault):
    """Training, kNN, validation loss, pictures and checkpoints, then `mim-jax eval`, all by real processes."""
    (alone, files), workdir = alone, tmp_path / "run"
    ended = processes.run(train_words(workdir), count)
    assert "epoch" in ended[0][2] and "epoch" not in ended[1][2]  # one process speaks
    assert_same(logged(workdir), logged(alone))
    assert files_of(workdir) == files
    assert Checkpoints(workdir, read_only=True).all_steps() == Checkpoints(alone, read_only=True).all_steps()
    for folder, number in ((workdir, count), (alone, 1)):
        processes.run(["eval", str(folder), "--knn", "--no-baselines", "--config.evaluation.limit=128"], number)
    ours, theirs = (json.loads((folder / "eval.json").read_text()) for folder in (workdir, alone))
    assert len(ours) == 1 and ours[0]["metrics"] == theirs[-1]["metrics"]
    fault(f"run on {count} processes instead of one", tried=1, survived=1, lost="nothing: losses equal to 1e-5")


def steps(out: Path, names: list[str], count: int, mesh: dict[str, int]) -> dict[str, np.ndarray]:
    """What `steps_worker.py` finds, by name."""
    if not out.exists():
        contract = str(Path(__file__).resolve().parent.parent / "contract")
        extra = {"PYTHONPATH": os.pathsep.join([contract, str(Path.cwd())])}
        words = [sys.executable, str(WORKER), str(out), json.dumps(mesh), *names]
        ended = processes.finish(processes.start_words(words, count, 4 // count, extra), timeout=3600)
        assert all(code == 0 for code, _, _ in ended), ended[0][2][-3000:] + ended[-1][2][-3000:]
    with np.load(out) as arrays:
        return dict(arrays)


FEW = ["ibot", "spark"]  # teacher and centres; batch norms


@pytest.mark.parametrize(
    ("names", "count", "mesh"),
    [
        (FEW, 2, {"data": 2, "fsdp": 2}),
        pytest.param(sorted(METHODS), 2, {"data": 2, "tensor": 2}, marks=pytest.mark.slow),
        pytest.param(sorted(METHODS), 4, {"data": 1, "fsdp": 4}, marks=pytest.mark.slow),
    ],
)
def test_steps_of_every_method_are_those_of_one_process(names, count, mesh, tmp_path, fault):
    """Losses to 1e-5; masks and other draws identical; global statistics; no state whole by accident."""
    one = steps(tmp_path / "one.npz", names, 1, {"data": 4})
    many = steps(tmp_path / "many.npz", names, count, mesh)
    assert many.pop("processes") == count and one.pop("processes") == 1
    for key, value in one.items():
        kind = key.split("/")[1]
        if kind == "drawn" and value.dtype.kind == "f":  # AttMask's teacher has computed some of it
            np.testing.assert_allclose(many[key], value, rtol=1e-5, atol=1e-5, err_msg=key)
        elif kind == "drawn":
            np.testing.assert_array_equal(many[key], value, err_msg=key)
        elif kind == "loss":
            np.testing.assert_allclose(many[key], value, rtol=1e-5, err_msg=key)
        elif kind == "extra":
            np.testing.assert_allclose(many[key], value, rtol=1e-3, atol=1e-5, err_msg=key)
    lost = "nothing: what is drawn identical, losses to 1e-5"
    fault(f"steps of systems on {count} processes, {mesh}", tried=len(names), survived=len(names), lost=lost)
    if "fsdp" in mesh:
        assert all(many[f"{name}/held"] < 1.5 / mesh["fsdp"] for name in names)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES must be set too"),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID=2 and JAX_NUM_PROCESSES=2 must be",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "host", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "JAX_COORDINATOR_ADDRESS=host must be host:port",
        ),
    ],
)
def test_half_a_setting_is_refused(given, sentence, monkeypatch):
    for name in distributed.GIVEN:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=sentence):
        distributed.start()


def test_a_single_machine_needs_nothing(monkeypatch):
    for name in (*distributed.GIVEN, *distributed.SIZES):
        monkeypatch.delenv(name, raising=False)
    assert not distributed.start()


@pytest.mark.slow
def test_a_process_that_never_comes_is_said(tmp_path, fault):
    """Process 0 waits for a second one in vain."""
    code = "from mim_jax import distributed; distributed.start(timeout=5)"
    [(status, _, errors)] = processes.finish(processes.start_words([sys.executable, "-c", code], 2, only=(0,)), 120)
    fault("a host that never comes", tried=1, survived=int(status != 0), lost="the start; said in a sentence")
    assert status != 0 and "did not find each other at 127.0.0.1" in errors, errors[-2000:]
