"""What the training loop adds to the bare compiled step, what importing costs, and how long the first step takes.

    python tools/bench/loop_cost.py
    python tools/bench/loop_cost.py --model B/16 --first-batch 8            the first step of a ViT-B at 224 pixels

A real run of `training.loop.train` on synthetic images that lie in the host's memory (the loader has a benchmark of its
own), with log, TensorBoard and checkpoints as by default, over 20 epochs. After every block of steps (`log_every`) the
loop waits in an evaluator, and the same program takes as many steps on a batch that stays on the device. So blocks
alternate in one process, and each of the loop's is compared with the mean of its two neighbours. The loop is timed by
the wall clock, from block to block: logging and the checkpoint that is saved halfway count.

The first step is timed from the start of a new process to the loss of step 1, twice: with an empty compilation cache
and with what the first time left in it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

GOALS = {"loop / bare step": 1.03, "import mim_jax": 1.5, "first step, warm cache": 15.0}  # ratio, seconds, seconds
EPOCHS = 20  # two checkpoints by default, one of them halfway


class Synthetic:
    """Training data as the loop sees it: a few batches, again and again."""

    def __init__(self, batches: list[dict[str, Any]], records: int):
        self.batches, self.records = batches, records

    def open_at(self, step: int) -> Iterator[dict[str, Any]]:
        return itertools.islice(itertools.cycle(self.batches), step % len(self.batches), None)


class Blocks:
    """An evaluator that is none: between two blocks of the loop it lets the bare step take as many steps."""

    name = "bare step"

    def __init__(self, bare: Callable[[int], float], every_steps: int):
        self._bare, self.every_steps = bare, every_steps
        self.loop: list[float] = []  # seconds per step of block i, which lies between those of bare[i] and bare[i + 1]
        self.bare: list[float] = []
        self.since: float | None = None

    def __call__(self, variables: Any, step: int) -> dict[str, float]:
        if self.since is not None:  # the first block is left out: it holds what happens once
            self.loop.append((time.perf_counter() - self.since) / self.every_steps)
        self.bare.append(self._bare(self.every_steps))
        self.since = time.perf_counter()
        return {}


def neighbour_ratios(loop: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Each block of the loop over the mean of the bare blocks before and after it."""
    return [2 * own / (before + after) for own, (before, after) in zip(loop, itertools.pairwise(bare), strict=True)]


def loop_against_bare(spec: str, overrides: Sequence[str], blocks: int) -> dict[str, Any]:
    """Runs the loop for an even number of blocks."""
    import jax
    from bare_step import BareStep, load, synthetic

    from mim_jax.training import compile_ahead
    from mim_jax.training.loop import train
    from mim_jax.training.sharding import make_mesh

    config, method = load(spec, [f"training.epochs={EPOCHS}.0", "optimizer.warmup_epochs=2.0", *overrides])
    size, block = config.training.batch_size, config.training.log_every
    steps = -(-blocks * block // EPOCHS) * EPOCHS
    if steps % (2 * block):
        raise SystemExit(f"{blocks} blocks of {block} steps are not {EPOCHS} whole epochs; give an even --blocks")
    shapes = compile_ahead.batch_shapes(config, make_mesh(config.mesh))
    data = Synthetic([synthetic(shapes, seed) for seed in range(4)], steps // EPOCHS * size)
    timer = Blocks(BareStep(config, method), block)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        state = train(config, Path(folder), method, data, evaluators=lambda *_: (timer,))
        jax.block_until_ready(state)
        last_save = time.perf_counter() - (timer.since or 0.0)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    usual = statistics.median(timer.loop)
    halfway = timer.loop[steps // block // 2 - 1]  # the first block left out, so this one follows the save
    found = neighbour_ratios(timer.loop, timer.bare)
    return {
        "config": spec,
        "batch_size": size,
        "steps": steps,
        "block": block,
        "loop_seconds_per_step": round(usual, 5),
        "loop_seconds_per_step_by_its_log": round(statistics.median(size / v["images_per_sec"] for v in lines[1:]), 5),
        "bare_seconds_per_step": round(statistics.median(timer.bare), 5),
        "ratio_of_each_block": [round(ratio, 4) for ratio in found],
        "median_ratio": round(statistics.median(found), 4),
        "total_ratio": round(sum(timer.loop) / sum(timer.bare[1:]), 4),
        "seconds_that_a_save_holds_up": round((halfway - usual) * block, 3),
        "seconds_of_the_last_save": round(last_save, 3),
    }


# ---- New processes ---------------------------------------------------------------------------------------------


def import_seconds(module: str, times: int = 3) -> float:
    """Median wall time of a new interpreter that imports `module`, its own start included."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds), 3)


class Reached(Exception):
    """Step 1 is done."""


class FirstStep:
    """An evaluator that ends the run at its first step."""

    name, every_steps = "first step", 1

    def __call__(self, variables: Any, step: int) -> dict[str, float]:
        raise Reached


def first_step(spec: str, overrides: Sequence[str], began: float) -> None:
    """In a new process: trains to the loss of step 1 and prints the seconds since `began`, on the clock of the day."""
    from bare_step import load, synthetic

    from mim_jax.training import compile_ahead
    from mim_jax.training.loop import train
    from mim_jax.training.sharding import make_mesh

    imported = time.time() - began
    config, method = load(spec, ["training.log_every=1", *overrides])
    shapes = compile_ahead.batch_shapes(config, make_mesh(config.mesh))
    data = Synthetic([synthetic(shapes)], 1000 * config.training.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(Reached):
            train(config, Path(folder), method, data, evaluators=lambda *_: (FirstStep(),))
        done = time.time() - began
        print(json.dumps({"seconds": round(done, 2), "of_it_imports": round(imported, 2)}), flush=True)


def first_steps(spec: str, overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """{'cold': ..., 'warm': ...}: seconds from the start of a process to the loss of its first step."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        for name in ("cold", "warm"):
            command = [sys.executable, __file__, "--first", spec, *(f"--set={word}" for word in overrides)]
            command += ["--began", repr(time.time())]
            answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
            if answer.returncode:
                raise SystemExit(f"the first step of {spec} failed; its message stands above")
            found[name] = json.loads(answer.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/mae/digits.py", help="of the loop (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of that config")
    parser.add_argument("--blocks", type=int, default=12, help="of log_every steps; even (default: %(default)s)")
    parser.add_argument("--model", help="the first step is that of MAE on ImageNet-1K in this size, such as B/16")
    parser.add_argument("--first-batch", type=int, default=8, help="batch of --model (default: %(default)s)")
    parser.add_argument("--only", choices=("loop", "start"), help="a part of it")
    parser.add_argument("--first", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first:
        return first_step(args.first, args.set, args.began)

    root = Path(__file__).resolve().parents[2]
    spec = str(root / args.config) if (root / args.config.partition(":")[0]).exists() else args.config
    ratios: dict[str, float] = {}
    report: dict[str, Any] = {}
    if args.only != "loop":  # before this process takes memory or a device
        report["import_seconds"] = {name: import_seconds(name) for name in ("mim_jax", "mim_jax.pretrain")}
        ratios["import mim_jax / goal"] = round(report["import_seconds"]["mim_jax"] / GOALS["import mim_jax"], 3)
        first, overrides = spec, args.set
        if args.model:
            first = f"{root}/configs/mae/imagenet1k.py:variant={args.model}"
            overrides = [f"training.batch_size={args.first_batch}"]
        report["first_step"] = first_steps(first, overrides) | {"model": args.model or args.config}
        warm = report["first_step"]["warm"]["seconds"]
        ratios["first step, warm cache / goal"] = round(warm / GOALS["first step, warm cache"], 3)
    if args.only != "start":
        report["loop"] = loop_against_bare(spec, args.set, args.blocks) | {"config": args.config}
        ratios["loop / bare step"] = report["loop"]["median_ratio"]

    from bare_step import facts

    print(json.dumps({
        "benchmark": "loop_cost", "ratios": ratios, "better": "lower", "goals": GOALS, **report, **facts(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
