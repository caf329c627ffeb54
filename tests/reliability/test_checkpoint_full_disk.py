"""A disk that is full while a run saves and logs: training goes on, says so, and recovers when there is space."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import jax.numpy as jnp
import processes
import pytest
import real_runs as real
from etils import epath

from mim_jax.training import checkpoint_digests as digests
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.lines import Lines
from mim_jax.training.metrics import Writers


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not Path("/proc/mounts").exists():
        pytest.skip("mounting a small file system needs root on Linux")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small file system could be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    """Takes all the space that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def state(step: int, size: int) -> dict:
    return {"w": jnp.arange(float(size)) + step}


def test_a_run_survives_a_full_disk(small_disk, tmp_path, fault):
    ours, log, filler = small_disk / "run", tmp_path / "log", small_disk / "filler"
    options = {"training__epochs": 20, "training__tensorboard": True, "training__log_records": False}
    with real.started(real.command("mae", ours, **options), log) as process:
        assert real.until(lambda: (ours / "checkpoints" / "12").exists(), process), log.read_text()
        fill(filler)
        said = lambda words: log.read_text().count(words)  # noqa: E731
        full = "could not be written (no space left on the disk)"
        refused = real.until(lambda: said(full) >= 3, process)
        last = max(int(p.name) for p in (ours / "checkpoints").iterdir() if p.name.isdigit())
        intact = digests.fault(epath.Path(ours) / "checkpoints" / str(last)) == ""
        assert refused and process.poll() is None, log.read_text()
        filler.unlink()
        recovered = real.until(lambda: said("is written again") and said("meanwhile is written"), process)
        assert process.wait(240) == 0, log.read_text()
    found = real.losses(ours)
    survived = intact and recovered and [step for step, _ in found] == list(range(1, 441))
    lost = "nothing: lines waited in memory, the last good checkpoint stayed; TensorBoard's curves have a gap"
    fault("disk full while saving and logging", tried=said(full), survived=said(full) * survived, lost=lost)
    assert survived, log.read_text()
    kinds = [line["kind"] for line in real.lines(ours / "events.jsonl")]
    assert kinds.count("disk full") >= 3 and "disk has space" in kinds


def test_a_run_of_two_processes_survives_a_full_disk(small_disk, tmp_path, fault):
    """They agree beforehand that there is no room, so none waits for the other's part."""
    ours, log, filler = small_disk / "run", tmp_path / "log", small_disk / "filler"
    words = real.command("mae", ours, training__epochs=10, training__log_records=False)[3:]
    with log.open("w") as errors:
        both = processes.start(words, 2, errors=errors)
        try:
            assert real.until(lambda: (ours / "checkpoints" / "12").exists(), both[0]), log.read_text()
            fill(filler)
            said = lambda words: log.read_text().count(words)  # noqa: E731
            refused = real.until(lambda: said("could not be written (no space left on the disk: ") >= 3, both[0])
            last = max(int(p.name) for p in (ours / "checkpoints").iterdir() if p.name.isdigit())
            intact = digests.fault(epath.Path(ours) / "checkpoints" / str(last)) == ""
            filler.unlink()
            recovered = real.until(lambda: said("is written again"), both[0])
        finally:
            ended = processes.finish(both)
    survived = intact and refused and recovered and [code for code, _, _ in ended] == [0, 0]
    fault(
        "disk full while two processes save", tried=3, survived=3 * survived, lost="nothing: the last good one stayed"
    )
    assert survived, log.read_text()
    assert [step for step, _ in real.losses(ours)] == list(range(1, 221))
    assert [line["kind"] for line in real.lines(ours / "events.jsonl")].count("disk full") >= 3


def test_the_last_good_checkpoint_stays(small_disk, fault):
    told = []
    from test_checkpoint_damage import SHAPES, make_state

    with Checkpoints(small_disk / "run", keep=1, trouble=lambda *what: told.append(what)) as checkpoints:
        assert checkpoints.save(1, make_state(1))
        checkpoints.wait()
        fill(small_disk / "filler")
        for step in (2, 3, 4):
            checkpoints.save(step, make_state(step))
            checkpoints.wait()
            assert checkpoints.all_steps() == [1]
            assert not list(checkpoints.directory.glob("*tmp*"))  # what was half written would keep the disk full
        (small_disk / "filler").unlink()
        checkpoints.save(5, make_state(5))
        checkpoints.wait()
        assert checkpoints.all_steps() == [5]
        assert checkpoints.restore_sound(SHAPES)[2] == 5
    kinds = [(step, kind) for step, kind, _ in told]
    fault("disk full at three saves in a row", tried=3, survived=3, lost="nothing: the last good one stayed")
    assert kinds == [*((step, "disk full") for step in (2, 3, 4)), (5, "disk has space")]
    assert all("the one of step 1 is kept" in sentence for _, kind, sentence in told if kind == "disk full")


def test_lines_wait_for_space(small_disk):
    troubles, reliefs = [], []
    lines = Lines(small_disk / "lines", troubles.append, lambda: reliefs.append(1))
    fill(small_disk / "filler")
    for number in range(2000):
        lines.write(f'{{"step": {number}, "text": "{"x" * 50}"}}')
    assert len(troubles) == 1 and "No space left" in troubles[0] and not reliefs
    (small_disk / "filler").unlink()
    lines.write('{"step": 2000}')
    lines.close()
    assert [line["step"] for line in real.lines(small_disk / "lines")] == list(range(2001)) and len(reliefs) == 1


def test_curves_go_on_after_a_gap(small_disk):
    with Writers(small_disk / "run") as writers:
        writers.write(1, {"loss": 1.0})
        fill(small_disk / "filler")
        for step in range(2, 300):
            writers.write(step, {f"value{n}": 0.5 for n in range(20)})
        (small_disk / "filler").unlink()
        for step in range(300, 303):
            writers.write(step, {"loss": 3.0})
    found = real.lines(small_disk / "run" / "metrics.jsonl")
    assert [line["step"] for line in found] == list(range(1, 303))
    assert len(list((small_disk / "run" / "tensorboard").iterdir())) >= 1
