"""Every system at one small budget on CIFAR-10: pretrain, then kNN and a linear probe, beside the untrained encoder.

    python tools/same_budget.py --data CIFAR10 --out runs/same_budget            all systems, two at a time
    python tools/same_budget.py --data CIFAR10 --out runs/same_budget --only mae ijepa --images 32000
    python tools/same_budget.py --out runs/same_budget --table                   the table of what is there

CIFAR10 is a folder with train-*.parquet and test-*.parquet. A run that is there is continued, a result that is there
is not made again. One core a run, so that times compare. The table is Markdown; results.json holds the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parent.parent
BATCH = 64
PROBE = ("evaluation.knn.k=10,20", "evaluation.knn.feature=pooled", "evaluation.linear.feature=pooled")
PROBE += ("evaluation.linear.batch_size=1000", "evaluation.linear.lr=6.4", "evaluation.linear.lr_batch=0")
SMALL_VIT = ("model.width=96", "model.depth=3", "model.heads=3")
SMALL_TEACHER = tuple(setting.replace("model.", "method.teacher.model.") for setting in SMALL_VIT)
SMALL_DECODER = ("method.decoder_width=64", "method.decoder_depth=2", "method.decoder_heads=2")
COMMON = ("optimizer.lr=1e-3", "optimizer.lr_batch=0", "training.log_every=20")
COMMON += tuple(f"training.evaluate.{what}_every_epochs=0" for what in ("knn", "loss", "pictures"))


@dataclass(frozen=True)
class System:
    """changes: what makes configs/NAME/cifar10.py small. needs: a system whose run it reads, as `takes`.

    judged: whether it learns an encoder; the others are trained as their config says. images: that it sees where they
    are not those of the others.
    """

    changes: tuple[str, ...] = ()
    encoder: tuple[str, ...] = SMALL_VIT
    arguments: str = ""
    needs: str = ""
    takes: str = "tokenizer"  # tokenizer | teacher
    judged: bool = True
    images: int = 0


SYSTEMS = {
    "tokenizer": System(encoder=(), judged=False),
    "mae": System(SMALL_DECODER),
    "mff": System((*SMALL_DECODER, "method.taps=(0,1,2)")),
    "colormae": System(SMALL_DECODER),
    "hpm": System(SMALL_DECODER),
    "localmim": System(("method.decoder_width=64", "method.decoder_heads=2", "method.taps=(0,0,1,2)")),
    "lut": System((*SMALL_DECODER, "method.ema_momentum=0.99"), arguments="head_hidden=256"),
    "dmae": System(
        (*SMALL_DECODER, *SMALL_TEACHER, "method.blocks=(1,)", "method.teacher_blocks=(1,)"),
        needs="mae",
        takes="teacher",
    ),
    "simmim": System(),
    "maskfeat": System(),
    "beit": System(needs="tokenizer"),
    "cae": System(
        ("method.decoder_width=96", "method.decoder_heads=3", "method.decoder_depth=1"),
        needs="tokenizer",
    ),
    # The published momenta average over far more steps than there are here; and the run is shorter than an epoch.
    "ibot": System(
        (
            *("method.ema_momentum=0.99", "optimizer.freeze_epochs=0.05", "model.drop_path_rate=0.0"),
            *("method.head.hidden=256", "method.head.bottleneck=64"),
            *("method.distillation.temperature=0.04", "method.distillation.patch_temperature=0.04"),
        ),
        arguments="local_crops=2,outputs=256",
        images=102_400,  # after 32,000 its kNN is still that of the untrained encoder
    ),
    # At 1e-3 its linear probe fell below the untrained encoder's; the published rate is 1e-3 for batches of 2048.
    "ijepa": System(("method.momentum=0.98", "optimizer.lr=3e-4"), arguments="predictor_width=64,predictor_depth=2"),
    "convmae": System(
        (
            *("model.stem_width=(24,48)", "model.stem_depth=(1,1)"),
            *("method.decoder_width=64", "method.decoder_depth=2", "method.decoder_heads=2"),
        ),
    ),
    "dbot": System((*SMALL_DECODER, *SMALL_TEACHER)),
    "dbot_beit": System(SMALL_TEACHER, needs="mae", takes="teacher"),
    "vqkd": System(SMALL_TEACHER, encoder=(), needs="mae", takes="teacher", judged=False),
    "beitv2": System(("method.early_layers=2",), needs="vqkd"),
    "eva02": System(SMALL_TEACHER, needs="mae", takes="teacher"),
    "maskalign": System((*SMALL_TEACHER, "method.layer_weights=top2"), needs="mae", takes="teacher"),
    "dmjd": System(
        (
            *("model.stem_width=(24,48)", "model.stem_depth=(1,1)"),
            *("method.decoder_width=64", "method.decoder_depth=2", "method.decoder_heads=2"),
        ),
    ),
    "croco": System(("method.decoder_width=64", "method.decoder_depth=2", "method.decoder_heads=2")),
    "multimae": System(("method.decoder_heads=2",), arguments="decoder_width=64"),
    "spark": System(
        ("model.width=(16,32,64,128)", "method.decoder_width=64", "optimizer.lr=4e-3"),  # LAMB's rates are larger
        encoder=(),
    ),
}


def train(name: str, args: argparse.Namespace, core: int) -> None:
    """Pretrains and judges one system on one core."""
    system, run, began = SYSTEMS[name], args.out / name, time.monotonic()
    values = {"epochs": (system.images or args.images) / 50_000, "batch_size": BATCH, "precision": "fp32"}
    values |= {"source": f"parquet:{args.data}/train-*.parquet", "eval_source": f"parquet:{args.data}/test-*.parquet"}
    if system.needs:
        values[system.takes] = system.needs == "tokenizer" and args.tokenizer or args.out / system.needs
    if not system.judged:
        del values["epochs"], values["batch_size"]
    given = [f"{key}={value}" for key, value in values.items()] + [system.arguments] * bool(system.arguments)
    config = f"configs/{name}/cifar10.py:" + ",".join(given)
    changes = [*system.encoder, *(COMMON if system.judged else ()), *system.changes]
    mim_jax = [sys.executable, "-m", "mim_jax"]
    steps = [[*mim_jax, "train", "--config", config, "--workdir", str(run), *(f"--config.{c}" for c in changes)]]
    if system.judged and not (run / "eval.json").exists():
        few = f"--config.data.source=parquet:{args.data}/train-00000-of-00005.parquet"
        steps.append([*mim_jax, "eval", str(run), "--knn", "--linear", few, *(f"--config.{c}" for c in PROBE)])
    with (args.out / f"{name}.log").open("a") as log:
        for command in steps:
            subprocess.run(["taskset", "-c", str(core), *command], cwd=ROOT, stdout=log, stderr=log, check=True)
            log.write(f"{' '.join(command[:4])}: {time.monotonic() - began:.0f} s\n")
            log.flush()
    print(f"{name}: done after {time.monotonic() - began:.0f} s", flush=True)


def run_all(args: argparse.Namespace) -> bool:
    """Systems that others need come first; the rest as cores become free. False where one failed."""
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[: args.jobs]:
        cores.put(core)

    def job(name: str) -> bool:
        core = cores.get()
        try:
            train(name, args, core)
            return True
        except subprocess.CalledProcessError:
            print(f"{name}: failed; see {args.out / name}.log", flush=True)
            return False
        finally:
            cores.put(core)

    chosen = set(args.only or SYSTEMS)
    there = {"tokenizer"} if args.tokenizer else set()
    while needed := {SYSTEMS[name].needs for name in chosen} - chosen - there - {""}:
        chosen |= needed
    fine = True
    with ThreadPoolExecutor(args.jobs) as pool:
        while chosen := chosen - there:
            ready = [name for name in SYSTEMS if name in chosen and SYSTEMS[name].needs in {"", *there}]
            fine = all(list(pool.map(job, ready))) and fine
            there |= set(ready)
    return fine


def rows(out: Path) -> list[dict]:
    """What the runs in a folder came to."""
    found = []
    for name, system in SYSTEMS.items():
        if not system.judged or not (out / name / "eval.json").exists():
            continue
        resolved = json.loads((out / name / "resolved.json").read_text())
        entries = {entry["protocol"]: entry for entry in json.loads((out / name / "eval.json").read_text())}
        row = {"system": name, "parameters": resolved.get("parameters"), "steps": entries["knn"]["checkpoint"]["step"]}
        row |= {"batch": BATCH, "checkpoint": entries["knn"]["checkpoint"]["hash"], "seed": entries["knn"]["seed"]}
        for protocol, entry in entries.items():
            row[protocol] = {"pretrained": entry["metrics"], **entry["baselines"], "command": entry["command"]}
        found.append(row)
    return found


def table(found: list[dict]) -> str:
    """Top-1 in %, pretrained / untrained / pixels."""
    lines = ["| system | steps | kNN k=10 | kNN k=20 | linear |", "|---|---|---|---|---|"]
    for row in found:
        cells = []
        for protocol, metric in (("knn", "top1_k10"), ("knn", "top1_k20"), ("linear", "top1")):
            numbers = row[protocol]
            three = [numbers[who].get(metric) for who in ("pretrained", "untrained", "pixels") if who in numbers]
            cells.append(" / ".join(f"{100 * value:.1f}" for value in three if value is not None))
        lines.append(f"| {row['system']} | {row['steps']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 as parquet files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(SYSTEMS))
    parser.add_argument(
        "--images", type=int, default=32_000, help="images a system sees, where it has no number of its own"
    )
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer's run to use instead of training one")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.out = args.out.resolve()
    args.data = args.data and args.data.resolve()
    args.tokenizer = args.tokenizer and args.tokenizer.resolve()
    fine = True if args.table else run_all(args)
    found = rows(args.out)
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    if not fine:
        sys.exit(1)


if __name__ == "__main__":
    main()
