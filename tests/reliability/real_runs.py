"""Real `mim-jax train` processes on the embedded digits, small enough to be killed many times."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from processes import flags

ROOT = Path(__file__).resolve().parents[2]

# Little data a step and many steps; a checkpoint every few of them.
COMMON = {
    "training.epochs": 4, "training.batch_size": 64, "training.log_every": 1, "training.log_records": True,
    "training.tensorboard": False, "training.evaluate.images": 64, "training.checkpoint.every_epochs": 0.25,
    "training.evaluate.pictures_every_epochs": 0, "training.evaluate.knn_every_epochs": 0,
    "training.evaluate.loss_every_epochs": 0, "optimizer.warmup_epochs": 1, "training.precision": "fp32",
    "data.threads": 2,
}  # fmt: skip
TINY_VIT = {"model.width": 16, "model.depth": 1, "model.heads": 2}
MAE = {
    **TINY_VIT, "method.decoder_width": 16, "method.decoder_depth": 1, "method.decoder_heads": 2, "optimizer.ema": 0.9,
}  # fmt: skip
DIGITS = {"data.source": "digits:train", "data.eval_source": "digits:test"}
SYSTEMS: dict[str, tuple[str, dict]] = {
    "mae": ("configs/mae/digits.py", MAE),  # with a moving average of its weights
    "ibot": (  # a teacher and two centres
        "configs/ibot/cifar10.py:local_crops=0,outputs=32",
        {**DIGITS, **TINY_VIT, "method.head.hidden": 16, "method.head.bottleneck": 8,
         "optimizer.freeze_epochs": 0.5, "training.epochs": 2},
    ),
    "tokenizer": (  # a codebook that follows its vectors
        "configs/tokenizer/cifar10.py:vocabulary=32,hidden=8", {**DIGITS, "model.blocks": 1, "training.epochs": 2},
    ),
}  # fmt: skip


def command(system: str, workdir: Path, **changes) -> list[str]:
    """The command line of a run; changes: `training__batch_size=32`."""
    spec, values = SYSTEMS[system]
    spec = str(ROOT / spec.partition(":")[0]) + spec[len(spec.partition(":")[0]) :]
    values = {**COMMON, **values, **{key.replace("__", "."): value for key, value in changes.items()}}
    words = [sys.executable, "-m", "mim_jax", "train", "--config", spec, "--workdir", str(workdir)]
    return words + [f"--config.{key}={value}" for key, value in values.items()]


def environment(devices: int = 1) -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags(devices), "PYTHONPATH": str(ROOT)}


def finish(words: list[str], devices: int = 1, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs to the end."""
    return subprocess.run(words, env=environment(devices), capture_output=True, text=True, timeout=timeout)


@contextlib.contextmanager
def started(words: list[str], log: Path, devices: int = 1) -> Iterator[subprocess.Popen]:
    """A run in progress; it is gone when this ends."""
    with log.open("a") as out:
        process = subprocess.Popen(words, env=environment(devices), stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def until(condition, process: subprocess.Popen, seconds: float = 240) -> bool:
    """Waits until the condition holds or the process has ended; whether it holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return bool(found)
        if process.poll() is not None:
            return bool(condition())
        time.sleep(0.002)
    return False


def lines(path: Path) -> list[dict]:
    """The objects of a file of JSON lines; a half-written last one is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def losses(workdir: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines(workdir / "metrics.jsonl") if "loss" in line]


def records(workdir: Path) -> dict[str, list[dict]]:
    """{file: lines} of the record numbers of every epoch."""
    return {path.name: lines(path) for path in sorted((workdir / "records").glob("*.jsonl"))}


def seen_once(workdir: Path) -> bool:
    """Whether no epoch has a record twice, and no step is missing or twice."""
    steps = [line["step"] for found in records(workdir).values() for line in found]
    each = [[index for line in found for index in line["index"]] for found in records(workdir).values()]
    return steps == list(range(1, len(steps) + 1)) and all(len(set(epoch)) == len(epoch) for epoch in each)


def events(workdir: Path, kind: str) -> list[dict]:
    return [line for line in lines(workdir / "events.jsonl") if line["kind"] == kind]


MOMENTS = ("step", "checkpoint write", "loader")


def kill(moment: str, process: subprocess.Popen, workdir: Path, log: Path, rng: random.Random) -> list[int] | None:
    """Kills a run with SIGKILL at a random moment of one kind; None if it came to its end before, else the processes
    that it had.

    log: what this process alone has printed, which shows that it is under way.
    """
    steps = rng.randint(1, 12) if moment == "step" else 1
    came = until(lambda: log.read_text().count("  loss ") >= steps, process)
    if moment == "checkpoint write":
        came = came and until(lambda: any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")), process)
    if moment == "loader":  # while a worker process is at work
        came = came and until(lambda: any(works(child) for child in children(process.pid)), process, 60)
    time.sleep(rng.uniform(0, 0.03))
    if not came or process.poll() is not None:
        return None
    below = children(process.pid)
    process.kill()
    process.wait()
    return below


def gone(processes: list[int], seconds: float = 30) -> bool:
    """Whether all processes have ended within that time."""
    end = time.monotonic() + seconds
    while any(state(pid) not in ("", "Z") for pid in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def children(pid: int) -> list[int]:
    """Processes below `pid`, of which Linux knows."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                child = int(path.parent.name)
                found += [child, *children(child)]
    return found


def works(pid: int) -> bool:
    """Whether any thread of a process is running."""
    return any(state(f"{pid}/task/{path.name}") == "R" for path in Path(f"/proc/{pid}/task").glob("*"))


def state(pid: int | str) -> str:
    """R (running), S (asleep), ... or '' where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
