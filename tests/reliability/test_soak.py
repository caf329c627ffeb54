"""A long run leaks nothing: memory of every process, open files and threads stay where they are after the warm-up.

MIM_JAX_SOAK_MINUTES: how long (60). MIM_JAX_SOAK_OUT: a JSON file for the samples and the result.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

psutil = pytest.importorskip("psutil")

MINUTES = float(os.environ.get("MIM_JAX_SOAK_MINUTES", "60"))
# Minutes left out, at most half of the run: compilation, first evaluations, caches of pixels and pools that fill once.
WARM = min(15.0, MINUTES / 2)
JUDGED = 20.0  # a run shorter than this is mostly warm-up: it is reported, but not judged
BLOCKS = 20  # samples of one block (an evaluation, a save) hang together; their means hardly do
# What a run of many days could bear: 240 MB a day. A slope that its own error does not tell from none is none.
MEGABYTES_AN_HOUR = 10.0
LOOSE = 2  # what is open between saves comes and goes by one or two; a leak in hundreds of saves is far more
FLOOR = 10  # in %, of the samples of a quarter: a save holds files and threads for as long as the disk takes
SMALL = (
    "model.width=64", "model.depth=2", "model.heads=4", "method.decoder_width=64", "method.decoder_depth=1",
    "method.decoder_heads=2", "training.precision=fp32", "training.batch_size=128", "training.log_every=10",
    "training.epochs=100000", "optimizer.warmup_epochs=5", "data.workers=2", "data.threads=4",
    "training.checkpoint.every_epochs=0", "training.checkpoint.every_minutes=0.5",
)  # fmt: skip
EVALUATE = ("loss_every_epochs", "knn_every_epochs", "pictures_every_epochs")


def config(root: Path) -> tuple[str, list[str]]:
    """(config file, overrides): CIFAR-10 where it is beside the project, else the embedded digits."""
    from tests.conftest import SHARED

    cifar = SHARED / "data" / "cifar10"
    every, spec, overrides = 1, "configs/mae/digits.py", []
    if cifar.is_dir():
        every, spec = 0.1, "configs/mae/cifar10.py"
        overrides = [f"data.source=parquet:{cifar}/train-*.parquet", f"data.eval_source=parquet:{cifar}/test-*.parquet"]
    each = [f"training.evaluate.{key}={every * (4 if 'pictures' in key else 1)}" for key in EVALUATE]
    return str(root / spec), [*overrides, *SMALL, *each, "training.evaluate.images=512"]


def sample(main: Any) -> dict[str, float]:
    """Private memory in MB, open files and threads of the main process and, together, of those it started."""
    found: dict[str, float] = {"children": 0, "children_mb": 0.0, "children_files": 0, "children_threads": 0}
    found |= {"mb": memory(main), "files": main.num_fds(), "threads": main.num_threads()}
    for child in main.children(recursive=True):
        try:
            values = memory(child), child.num_fds(), child.num_threads()
        except psutil.Error:  # it ended meanwhile
            continue
        found["children"] += 1
        for name, value in zip(("mb", "files", "threads"), values, strict=True):
            found[f"children_{name}"] += value
    return found


def memory(process: Any) -> float:
    """MB that would be free without this process: pages that others share do not count."""
    return process.memory_full_info().uss / 1e6


def trend(hours: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """(slope per hour, its standard error) of a straight line through the means of blocks."""
    blocks = [part for part in np.array_split(np.arange(len(hours)), BLOCKS) if len(part)]
    x, y = (np.array([series[part].mean() for part in blocks]) for series in (hours, values))
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return slope, float(np.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x)))


def test_trend_finds_a_leak_under_a_sawtooth():
    hours = np.linspace(0, 1, 2000)
    noise = 30 * (np.arange(2000) % 25 == 0) + np.random.default_rng(0).normal(0, 5, 2000)
    slope, error = trend(hours, 500 + 40 * hours + noise)
    assert abs(slope - 40) < 3 * error < 20
    slope, error = trend(hours, 500 + noise)
    assert abs(slope) < 3 * error


def watch(words: list[str], root: Path, log: Path, minutes: float) -> tuple[list[dict[str, float]], int]:
    """Runs a command for so long, looking at it all the while; (samples, exit code after SIGTERM)."""
    samples, start = [], time.monotonic()
    with log.open("w") as stream, subprocess.Popen(words, cwd=root, stdout=stream, stderr=stream) as run:
        try:
            main = psutil.Process(run.pid)
            while time.monotonic() - start < 60 * minutes and run.poll() is None:
                time.sleep(min(5.0, minutes))
                samples.append({"hours": (time.monotonic() - start) / 3600, **sample(main)})
            run.send_signal(signal.SIGTERM)
            code = run.wait(timeout=180)
        finally:
            run.kill()
    return samples, code


@pytest.mark.slow
def test_soak(root, tmp_path, fault):
    spec, overrides = config(root)
    workdir, log = tmp_path / "run", tmp_path / "log.txt"
    words = [sys.executable, "-m", "mim_jax", "train", "--config", spec, "--workdir", str(workdir)]
    samples, code = watch([*words, *(f"--config.{one}" for one in overrides)], root, log, MINUTES)
    assert code == 0, log.read_text()[-3000:]

    series = {name: np.array([one[name] for one in samples]) for name in samples[0]}
    warm = series["hours"] > WARM / 60
    series = {name: values[warm] for name, values in series.items()}
    slopes = {name: trend(series["hours"], values) for name, values in series.items() if name != "hours"}
    grown = {name: floor(values, -1) - floor(values, 0) for name, values in series.items() if name != "hours"}
    lines = [json.loads(one) for one in (workdir / "metrics.jsonl").read_text().splitlines()]
    counts = {"steps": lines[-1]["step"], "evaluations": sum("knn" in one for one in lines)}
    flat = {name: not leaks(*slopes[name]) for name in ("mb", "children_mb")}
    flat |= {name: grown[name] <= LOOSE for name in ("files", "threads", "children_files", "children_threads")}
    result = {"minutes": MINUTES, **counts, "slopes": slopes, "grown": grown, "flat": flat, "samples": samples}
    if out := os.environ.get("MIM_JAX_SOAK_OUT"):
        Path(out).write_text(json.dumps(result, indent=1) + "\n")
    said = ", ".join(
        f"{what} {slopes[name][0]:+.1f} +- {slopes[name][1]:.1f} MB/h"
        for name, what in (("mb", "main process"), ("children_mb", "workers"))
    )
    kept = f"files {grown['files']:+.0f}, threads {grown['threads']:+.0f}; {counts['steps']} steps"
    survived = int(all(flat.values()) or MINUTES < JUDGED)
    lost = "nothing" if survived else f"not flat: {', '.join(name for name, well in flat.items() if not well)}"
    fault(f"{MINUTES:g} minutes of training ({said}, {kept})", tried=1, survived=survived, lost=lost)
    assert series["children"].min() >= 2, "the worker processes did not last"
    assert survived, {name: (slopes[name], grown[name]) for name, well in flat.items() if not well}


def leaks(slope: float, error: float) -> bool:
    return slope > MEGABYTES_AN_HOUR and slope > 3 * error


def floor(values: np.ndarray, quarter: int) -> float:
    """What the first (0) or the last (-1) quarter of the samples hardly falls below."""
    return float(np.percentile(np.array_split(values, 4)[quarter], FLOOR))
