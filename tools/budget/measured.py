"""What a budget came to as measured rows of `results/`, with the logs beside them."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

from budget import collect
from budget.jobs import ROOT, folder
from budget.systems import SYSTEMS
from mim_jax.results.files import append
from mim_jax.results.row import Measured

# (last word of the id, metric, protocol, name of its number)
MEASURES = (
    ("knn_k10", "knn top1_k10 (pooled)", "knn", "top1_k10"),
    ("knn_k20", "knn top1_k20 (pooled)", "knn", "top1_k20"),
    ("linear", "linear top1 (pooled)", "linear", "top1"),
    ("attentive", "attentive top1", "attentive", "top1"),
    ("finetune", "fine-tune top1", "finetune", "top1"),
)
PLAIN = ("vit_w96d3p4", "ViT, width 96, 3 blocks, patch 4")
STEM = ("convvit_w96d3p4", "ViT, width 96, 3 blocks, behind convolutions of width 24 and 48")
ENCODERS = {"convmae": STEM, "dmjd": STEM, "spark": ("resnet_w16", "ResNet, stages of 16, 32, 64 and 128")}


def add(out: Path, commit: str, hardware: str, only: list[str]) -> list[Measured]:
    """Adds what the runs in `out` came to and returns the new rows; logs go to results/logs."""
    new = []
    for row in collect.rows(out):
        name = row["system"]
        if only and name not in only:
            continue
        log = ROOT / "results" / "logs" / f"small_{name}.jsonl"
        made = append(ROOT / "results" / f"{name}.json", rows(row, commit, hardware, str(log.relative_to(ROOT))))
        if made:
            shutil.copyfile(folder(out, name, row["seeds"][0]) / "metrics.jsonl", log)
        new += made
    return new


def rows(row: dict[str, Any], commit: str, hardware: str, log: str) -> list[Measured]:
    """The rows of one system: means over its seeds, in %."""
    name, (slug, model), epochs = row["system"], ENCODERS.get(row["system"], PLAIN), round(row["images"] / 50_000, 2)
    needs = f"; learns from the run of {SYSTEMS[name].needs}" if SYSTEMS[name].needs else ""
    made = []
    for word, metric, protocol, number in MEASURES:
        found = row["protocols"].get(protocol)
        if found is None:
            continue
        values = {who: [100 * v for v in found["values"][who][number]] for who in found["values"]}
        mean = {who: round(sum(by_seed) / len(by_seed), 2) for who, by_seed in values.items()}
        made.append(
            Measured(
                id=f"{name}/{slug}/cifar10/{epochs:g}ep/{word}",
                method=name,
                model=model,
                data="CIFAR-10",
                epochs=epochs,
                metric=metric,
                value=mean.pop("pretrained"),
                config=f"configs/{name}/cifar10.py",
                seeds=tuple(row["seeds"]),
                hardware=hardware,
                command=f"python tools/same_budget.py --data CIFAR10 --out runs/same_budget --only {name}",
                commit=commit,
                checkpoint_hash=",".join(row["checkpoints"]),
                scale="cifar10",
                spread=round(statistics.stdev(values["pretrained"]), 2) if len(row["seeds"]) > 1 else None,
                baselines=mean,
                counts=found["counts"],
                log=log,
                note=f"{row['steps']} steps of {row['batch']} images{needs}",
            )
        )
    return made
