"""From a published row to the steps that repeat it: `mim-jax train` and `mim-jax eval`, checked before any runs."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax import stages
from mim_jax.errors import ConfigError
from mim_jax.methods import registry
from mim_jax.reproduce.needs import NEEDS
from mim_jax.results.metrics import Measure, measure
from mim_jax.results.row import Published

SCALES = ("cifar10",)
LARGE_ONLY = ("evaluation.finetune.image_size", "evaluation.segmentation")  # mean nothing for 32 pixels
OF_THE_SCALE = (
    "variant",
    "epochs",
    "iterations",
    "fraction",
    "data",
    "labels",
    "image_size",
    "batch_size",
    "lr",
    "size",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says. workdir: '' for one below runs/reproduce. arguments: NAME=VALUE of the config file.
    epochs: of pretraining, 0 as the config says. baselines: None where the scale decides."""

    scale: str = ""
    workdir: str = ""
    source: str = ""
    eval_source: str = ""
    epochs: float = 0.0
    seeds: int = 1
    arguments: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    baselines: bool | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """One command. name: as `seed 0, pretrain`. argv: without `mim-jax`. run: the folder that it fills, or judges.
    spec, overrides: of the config that is trained; '' for an evaluation, whose changes are `overrides`."""

    name: str
    argv: tuple[str, ...]
    run: Path
    spec: str = ""
    overrides: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        return shlex.join(("mim-jax", *self.argv))

    def config(self) -> ConfigDict:
        return configs.load(self.spec, self.overrides)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a row takes. dropped: arguments of the row's config that the small one does not know."""

    row: Published
    options: Options
    measure: Measure
    spec: str
    workdir: Path
    steps: tuple[Step, ...]
    dropped: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.options.seeds))

    def of_seed(self, seed: int) -> list[Step]:
        return [step for step in self.steps if step.name.startswith(f"seed {seed}, ")]


def recipe(row: Published, options: Options) -> Recipe:
    """The steps of a row; every config in them is loaded and checked.

    Raises:
        ConfigError: why the row cannot be repeated, and what to give where something is missing.
    """
    found = measure(row.metric)
    if not row.config or not found.protocol:
        reason = found.lacks if row.config else row.note or "no config has its settings"
        raise ConfigError(f"{row.id} cannot be repeated here: {reason}")
    if options.scale and (found.protocol == "segmentation" or options.scale not in SCALES):
        raise ConfigError(f"{row.id} has no small form: '{found.protocol}' at scale '{options.scale}' is not known")
    if options.epochs and not options.scale:
        raise ConfigError("--epochs belongs to --scale: a published row has epochs of its own")
    if options.seeds < 1:
        raise ConfigError(f"--seeds {options.seeds}: at least one seed is needed")
    spec, carried, dropped = small(row) if options.scale else (row.config, (), ())
    workdir = Path(options.workdir or Path("runs", "reproduce", _folder(spec, carried, options)))
    changes = _evaluation_changes(row, found, options)
    given = _arguments(options)
    training = (*carried, *(o for o in options.overrides if not o.startswith("evaluation.")))
    steps: list[Step] = []
    system = _system(spec)
    first = _needed(system, workdir, options, steps) if options.scale else ()
    spec = _with(spec, (*given, *first))
    for seed in range(options.seeds):
        folder = workdir / f"seed-{seed}"
        pretrain = _train(f"seed {seed}, pretrain", spec, folder, (*training, *_seed(spec, seed)))
        last = _last_run(pretrain)
        steps += [pretrain, _evaluation(f"seed {seed}, {found.protocol}", last, found, changes, options)]
    made = Recipe(row, options, found, spec, workdir, tuple(steps), dropped)
    _check(made)
    return made


def small(row: Published) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(spec of the small config, overrides that carry the row's own settings over, arguments without a place in it)."""
    path, _, argument = row.config.partition(":")
    spec, carried, dropped = f"{path.rpartition('/')[0]}/cifar10.py", [], []
    known = configs.load(spec)
    for part in filter(None, argument.split(",")):
        name, _, value = part.partition("=")
        if name in OF_THE_SCALE:
            continue
        if _is_argument(spec, part):
            spec = _with(spec, (part,))
        elif name in known.get("method", {}):
            carried.append(f"method.{name}={value}")
        else:
            dropped.append(part)
    return spec, tuple(carried), tuple(dropped)


def _is_argument(spec: str, part: str) -> bool:
    try:
        configs.load(_with(spec, (part,)))
    except ConfigError:
        return False
    return True


def _needed(system: str, workdir: Path, options: Options, steps: list[Step]) -> tuple[str, ...]:
    """Adds the runs that a system learns from before its own; returns the argument that takes them."""
    need = NEEDS.get(system)
    if need is None or any(text.startswith(f"{need.argument}=") for text in options.arguments):
        return ()
    other = _system(need.spec)
    before = _needed(other, workdir, options, steps)
    spec = _with(need.spec, (*_arguments(dataclasses.replace(options, arguments=())), *before))
    folder = workdir / "needs" / other
    steps.append(_train(f"first {other}", spec, folder, ()))
    return (f"{need.argument}={folder}",)


def _arguments(options: Options) -> tuple[str, ...]:
    """What the command line adds to the argument of a config file."""
    named = {"source": options.source, "eval_source": options.eval_source}
    texts = [f"{name}={value}" for name, value in named.items() if value]
    return (*texts, *([f"epochs={options.epochs:g}"] if options.epochs else []), *options.arguments)


def _with(spec: str, texts: Sequence[str]) -> str:
    path, _, argument = spec.partition(":")
    joined = ",".join(filter(None, (argument, *texts)))
    return f"{path}:{joined}" if joined else path


def _train(name: str, spec: str, folder: Path, overrides: tuple[str, ...]) -> Step:
    words = ("train", "--config", spec, "--workdir", str(folder), *(f"--config.{o}" for o in overrides))
    return Step(name, words, folder, spec, overrides)


def _seed(spec: str, seed: int) -> list[str]:
    """The overrides that give a run, or every stage of a pipeline, its seed."""
    config = configs.load(spec)
    return [f"stages.{name}.seed={seed}" for name in config.stages] if stages.is_pipeline(config) else [f"seed={seed}"]


def _last_run(step: Step) -> Path:
    """Where the encoder is that is judged: the run, or the last stage of a pipeline."""
    config = step.config()
    return step.run / list(config.stages)[-1] if stages.is_pipeline(config) else step.run


def _evaluation(name: str, run: Path, found: Measure, changes: tuple[str, ...], options: Options) -> Step:
    with_baselines = bool(options.scale) if options.baselines is None else options.baselines
    words = [
        "eval",
        str(run),
        f"--{found.protocol.replace('_', '-')}",
        *(() if with_baselines else ("--no-baselines",)),
    ]
    return Step(name, (*words, *(f"--config.{change}" for change in changes)), run, overrides=changes)


def _evaluation_changes(row: Published, found: Measure, options: Options) -> tuple[str, ...]:
    """Changes of the evaluation's settings: the measure's, the row's, and last those of the command line."""
    own = [c for c in (*found.changes, *row.changes) if not (options.scale and c.startswith(LARGE_ONLY))]
    given = [override for override in options.overrides if override.startswith("evaluation.")]
    named = {text.partition("=")[0] for text in (*own, *given)}
    missing = [key for key in found.needs if key not in named]
    if missing:
        raise ConfigError(f"{row.id} needs a value that only you can give: --config.{missing[0]}=VALUE")
    return tuple({text.partition("=")[0]: text for text in (*own, *given)}.values())


def _check(made: Recipe) -> None:
    """Refuses before anything runs what would be refused in the middle."""
    for step in made.steps:
        if not step.spec:
            continue
        config = step.config()
        stages.check(config, step.run)
        if not stages.is_pipeline(config):
            for name, source in registry.build(config).sources().items():
                if not source:
                    raise ConfigError(f"{made.row.id} learns from another network: give --argument {name}=RUN")


def _system(spec: str) -> str:
    return Path(spec.partition(":")[0]).parent.name


def _folder(spec: str, carried: tuple[str, ...], options: Options) -> str:
    """A folder that all rows of one pretraining share."""
    epochs = (f"epochs={options.epochs:g}",) if options.epochs else ()
    own = [text.removeprefix("method.") for text in carried]
    return re.sub(r"[^A-Za-z0-9=.]+", "-", ",".join([spec.removeprefix("configs/").replace(".py", ""), *own, *epochs]))
