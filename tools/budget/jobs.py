"""Trainings and evaluations as commands, one core each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from budget.systems import BATCH, COMMON, SETTINGS, SYSTEMS

ROOT = Path(__file__).resolve().parents[2]
TRAINING_IMAGES = 50_000


@dataclass(frozen=True)
class Plan:
    """images: that a system sees where it has no number of its own. flops: of its whole training instead, 0 for none.
    protocols: of the evaluation. tokenizer: a run to use instead of training one."""

    data: Path | None
    out: Path
    images: int = 32_000
    flops: float = 0.0
    seeds: int = 1
    protocols: tuple[str, ...] = ("knn", "linear")
    tokenizer: Path | None = None
    jobs: int = 2


def folder(out: Path, name: str, seed: int) -> Path:
    """The run of a system and a seed."""
    return out / (f"{name}-seed{seed}" if seed else name)


def training(name: str, seed: int, plan: Plan) -> tuple[str, list[str]]:
    """(config spec, overrides) of a system's training."""
    system = SYSTEMS[name]
    values: dict[str, object] = {}
    if system.judged:
        values = {"epochs": images_of(name, plan) / TRAINING_IMAGES, "batch_size": BATCH}
    values |= {"precision": "fp32", "source": f"parquet:{plan.data}/train-*.parquet"}
    values |= {"eval_source": f"parquet:{plan.data}/test-*.parquet"}
    if system.needs:
        values[system.takes] = (system.needs == "tokenizer" and plan.tokenizer) or folder(plan.out, system.needs, 0)
    given = [f"{key}={value}" for key, value in values.items()] + [system.arguments] * bool(system.arguments)
    changes = [*system.encoder, *(COMMON if system.judged else ()), *system.changes, f"seed={seed}"]
    return f"configs/{name}/cifar10.py:{','.join(given)}", changes


def images_of(name: str, plan: Plan) -> float:
    """Images that a system sees: those of the plan, its own number, or as many as the arithmetic pays for."""
    if not plan.flops:
        return SYSTEMS[name].images or plan.images
    return max(float(BATCH), plan.flops / flops_per_image(name))


def flops_per_image(name: str) -> float:
    """Training FLOPs of an image, by the method's own formula."""
    from mim_jax import config as configs
    from mim_jax.methods import registry

    system = SYSTEMS[name]
    argument = ",".join([*([f"{system.takes}=x"] if system.needs else ()), *filter(None, [system.arguments])])
    spec = str(ROOT / "configs" / name / "cifar10.py") + (f":{argument}" if argument else "")
    return registry.build(configs.load(spec, (*system.encoder, *system.changes))).flops()


def commands(name: str, seed: int, plan: Plan) -> list[list[str]]:
    """What is left to do for a system and a seed; a run that is there is continued."""
    run, (spec, changes) = folder(plan.out, name, seed), training(name, seed, plan)
    mim_jax = [sys.executable, "-m", "mim_jax"]
    steps = [[*mim_jax, "train", "--config", spec, "--workdir", str(run), *(f"--config.{c}" for c in changes)]]
    missing = [protocol for protocol in plan.protocols if protocol not in done(run)]
    if SYSTEMS[name].judged and missing:  # in one process: they share the start, the programs and the features
        few = f"--config.data.source=parquet:{plan.data}/train-00000-of-00005.parquet"
        settings = [f"--config.{change}" for protocol in missing for change in SETTINGS[protocol]]
        steps.append([*mim_jax, "eval", str(run), *(f"--{protocol}" for protocol in missing), few, *settings])
    return steps


def done(run: Path) -> set[str]:
    """Protocols that have a result in a run."""
    try:
        return {entry["protocol"] for entry in json.loads((run / "eval.json").read_text())}
    except FileNotFoundError:
        return set()


def train(name: str, seed: int, plan: Plan, core: int) -> None:
    """Pretrains and judges one system on one core."""
    began = time.monotonic()
    with (plan.out / f"{folder(plan.out, name, seed).name}.log").open("a") as log:
        for command in commands(name, seed, plan):
            subprocess.run(["taskset", "-c", str(core), *command], cwd=ROOT, stdout=log, stderr=log, check=True)
            log.write(f"{' '.join(command[:4])}: {time.monotonic() - began:.0f} s\n")
            log.flush()
    print(f"{name}, seed {seed}: done after {time.monotonic() - began:.0f} s", flush=True)


def run_all(plan: Plan, only: list[str]) -> bool:
    """Systems that others need come first; the rest as cores become free. False where one failed."""
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[: plan.jobs]:
        cores.put(core)

    def job(task: tuple[str, int]) -> bool:
        core = cores.get()
        try:
            train(*task, plan, core)
            return True
        except subprocess.CalledProcessError:
            print(f"{task[0]}, seed {task[1]}: failed; see the log of that name in {plan.out}", flush=True)
            return False
        finally:
            cores.put(core)

    fine = True
    with ThreadPoolExecutor(plan.jobs) as pool:
        for names in in_order(only, bool(plan.tokenizer)):
            tasks = [(name, seed) for name in names for seed in range(plan.seeds if SYSTEMS[name].judged else 1)]
            fine = all(list(pool.map(job, tasks))) and fine
    return fine


def in_order(only: list[str], has_tokenizer: bool = False) -> list[list[str]]:
    """The systems that are asked for and those that they need, in rounds; each has what it needs from an earlier."""
    chosen = set(only or SYSTEMS)
    there = {"tokenizer"} if has_tokenizer else set()
    while needed := {SYSTEMS[name].needs for name in chosen} - chosen - there - {""}:
        chosen |= needed
    rounds = []
    while chosen := chosen - there:
        rounds.append([name for name in SYSTEMS if name in chosen and SYSTEMS[name].needs in {"", *there}])
        there |= set(rounds[-1])
    return rounds
