"""A system trained over several seeds at once, on one device, and judged seed by seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from budget import images, resident, run_folder
from budget.jobs import done, flops_per_image, folder
from budget.systems import COMMON, SETTINGS, SYSTEMS
from mim_jax import config as configs
from mim_jax.interop import frozen as frozen_sources
from mim_jax.pretrain import check_all

ROOT = Path(__file__).resolve().parents[2]
# The configs' own sizes are ViT-Ti/4, or near it. What differs here, so that one run can teach others and convolutions
# cost about as much as the transformers.
ARGUMENTS = {"dmae": "teacher_variant=Ti/4"}
CHANGES = {"spark": ("model.width=(48,96,192,384)",)}


@dataclass(frozen=True)
class Budget:
    """source, eval_source: where images are. epochs or flops: of a system's training. small: the sizes of the CPU's
    budget. judge: protocols. limit: of images that they look at, 0 for all."""

    source: str
    eval_source: str
    out: Path
    epochs: float = 200.0
    flops: float = 0.0
    batch: int = 512
    seeds: int = 3
    small: bool = False
    judge: tuple[str, ...] = ("knn", "linear")
    changes: tuple[str, ...] = ()


def config_of(name: str, budget: Budget, records: int) -> configs.ConfigDict:
    """The config of a system, its images in the folder of the budget."""
    system, data = SYSTEMS[name], budget.out / "data"
    epochs = budget.epochs if not budget.flops else budget.flops / flops_of(name, budget) / records
    values = {"epochs": epochs, "batch_size": budget.batch, "source": f"npy:{data}/train.npy"}
    values |= {"eval_source": f"npy:{data}/test.npy"}
    if system.needs:
        values[system.takes] = folder(budget.out, system.needs, 0)
    more = [system.arguments] if budget.small else [ARGUMENTS.get(name, "")]
    argument = ",".join([f"{key}={value}" for key, value in values.items()] + list(filter(None, more)))
    small = (*system.encoder, *(COMMON if system.judged else ()), *system.changes, "training.precision=fp32")
    changes = small if budget.small else (*(c for c in COMMON if ".evaluate." in c), *CHANGES.get(name, ()))
    return configs.load(str(ROOT / "configs" / name / "cifar10.py") + f":{argument}", (*changes, *budget.changes))


def flops_of(name: str, budget: Budget) -> float:
    """Training FLOPs of an image at the sizes of the budget."""
    if budget.small:
        return flops_per_image(name)
    argument = ",".join([*([f"{SYSTEMS[name].takes}=x"] if SYSTEMS[name].needs else ()), ARGUMENTS.get(name, "")])
    spec = str(ROOT / "configs" / name / "cifar10.py") + (f":{argument}" if argument.strip(",") else "")
    return check_all(configs.load(spec, CHANGES.get(name, ()))).flops()


def train(name: str, budget: Budget) -> None:
    """Trains the seeds of a system in one program, unless their runs are there already."""
    seeds = tuple(range(budget.seeds if SYSTEMS[name].judged else 1))
    folders = [folder(budget.out, name, seed) for seed in seeds]
    if all((run / "resolved.json").exists() for run in folders):
        print(f"{name}: trained already", flush=True)
        return
    pictures = images.kept(budget.source, budget.out / "data" / "train.npy")
    images.kept(budget.eval_source, budget.out / "data" / "test.npy")
    config = config_of(name, budget, len(pictures))
    method = check_all(config)
    frozen_sources.check(method)
    made = resident.prepare(config, method, pictures, seeds)
    states, frozen = resident.begin(made, partial(frozen_sources.read, method))
    log, seconds = [], []
    for after, scalars, took in resident.train(made, states, frozen):
        states = after
        log.append(run_folder.means(scalars))
        seconds.append(took)
    run_folder.write(made, folders, states, frozen, log, sum(seconds))
    later = sorted(seconds[1:])
    middle = f", {later[len(later) // 2]:.2f} s an epoch after the first" if later else ""
    print(f"{name}: {len(seeds)} seeds, {made.plan.total_steps} steps in {sum(seconds):.0f} s{middle}", flush=True)


def judge(name: str, budget: Budget) -> None:
    """Every protocol that has no result yet, seed by seed; baselines beside the first seed alone."""
    from mim_jax.evaluation.run import evaluate

    if not SYSTEMS[name].judged:
        return
    for seed in range(budget.seeds):
        run = folder(budget.out, name, seed)
        for protocol in budget.judge:
            if protocol not in done(run):
                settings = SETTINGS[protocol] if budget.small else FULL.get(protocol, ())
                evaluate(run, (protocol,), baselines=seed == 0, overrides=settings)


# At the full size the configs' own recipes, but for the feature: the same for every system.
FULL = {
    "knn": ("evaluation.knn.feature=pooled",),
    "linear": ("evaluation.linear.feature=pooled",),
    "attentive": ("evaluation.attentive.batch_size=4096",),
    "finetune": ("evaluation.finetune.epochs=20", "evaluation.finetune.warmup_epochs=2"),
}
