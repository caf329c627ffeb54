"""Our row, out of what the evaluations wrote."""

from __future__ import annotations

import hashlib
import shlex
import statistics
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mim_jax import stages
from mim_jax.errors import CheckpointError
from mim_jax.models.vit_config import SIZES
from mim_jax.reproduce.progress import Clock, result
from mim_jax.reproduce.recipe import Recipe
from mim_jax.results.metrics import Measure, slug
from mim_jax.results.row import Measured

DATA = {"cifar10": "CIFAR-10", "digits": "digits"}


def row(made: Recipe, clock: Clock, log: str = "") -> Measured:
    """The measured row of a recipe all of whose steps are done.

    Raises:
        CheckpointError: a result that is not there after all.
    """
    entries = []
    for seed in made.seeds:
        entry = result(made.of_seed(seed)[-1])
        if entry is None:
            raise CheckpointError(
                f"{made.of_seed(seed)[-1].run}/eval.json holds no result of seed {seed}; run it again"
            )
        entries.append(entry)
    values = [value_of(entry["metrics"], made.measure) for entry in entries]
    hashes = [entry["checkpoint"]["hash"] for entry in entries]
    command = again(made)
    return Measured(
        id=_id(made, hashes, command),
        method=made.row.method,
        model=made.row.model if not made.options.scale else model_words(_config(made)),
        data=made.row.data if not made.options.scale else data_words(_config(made)),
        epochs=made.row.epochs if not made.options.scale else float(_config(made).training.epochs),
        metric=made.row.metric,
        value=round(statistics.fmean(values), 3),
        config=made.spec,
        row=made.row.id,
        scale=made.options.scale,
        seeds=made.seeds,
        spread=round(statistics.stdev(values), 3) if len(values) > 1 else None,
        baselines=_baselines(entries, made.measure) or None,
        counts=entries[0]["counts"],
        hardware=entries[0]["devices"],
        hours=round(clock.hours(made.steps), 3),
        command=command,
        commit=entries[0]["git revision"],
        checkpoint_hash=",".join(hashes),
        log=log,
    )


def again(made: Recipe) -> str:
    """The command line that repeats the row."""
    options = made.options
    words = ["mim-jax", "reproduce", made.row.id]
    named = {"scale": options.scale, "source": options.source, "eval-source": options.eval_source}
    for name, value in named.items():
        words += [f"--{name}", value] if value else []
    words += ["--epochs", f"{options.epochs:g}"] if options.epochs else []
    words += ["--seeds", str(options.seeds)] if options.seeds > 1 else []
    for text in options.arguments:
        words += ["--argument", text]
    return shlex.join([*words, *(f"--config.{override}" for override in options.overrides)])


def value_of(metrics: Mapping[str, float], found: Measure) -> float:
    """The number of a result that the row's metric means, in the row's unit: the best of those that begin so.

    Raises:
        CheckpointError: the result has none.
    """
    values = [value for name, value in metrics.items() if name.startswith(found.key)]
    if found.key in metrics:
        values = [metrics[found.key]]
    if not values:
        raise CheckpointError(f"the result of {found.protocol} has no '{found.key}', only {', '.join(metrics)}")
    return found.factor * max(values)


def _baselines(entries: list[dict[str, Any]], found: Measure) -> dict[str, float]:
    names = list(entries[0]["baselines"])
    of = lambda name: statistics.fmean(value_of(entry["baselines"][name], found) for entry in entries)  # noqa: E731
    return {name: round(of(name), 3) for name in names if all(name in entry["baselines"] for entry in entries)}


def _config(made: Recipe) -> ConfigDict:
    config = made.of_seed(0)[0].config()
    return list(config.stages.values())[-1] if stages.is_pipeline(config) else config


def _id(made: Recipe, hashes: list[str], command: str) -> str:
    """The row's id, or that of its small form, and eight digits that tell runs apart."""
    mark = hashlib.sha256("\n".join([*hashes, command]).encode()).hexdigest()[:8]
    if not made.options.scale:
        base = "/".join(made.row.id.split("/")[:5])
    else:
        config = _config(made)
        words = [slug(model_words(config).replace("/", "")), slug(data_words(config)).replace("_", "")]
        base = "/".join([made.row.method, *words, f"{config.training.epochs:g}ep", made.measure.slug])
    return f"{base}/{mark}"


def model_words(config: ConfigDict) -> str:
    """`ViT-Ti/4`, or the sizes where they have no such name."""
    model = config.model
    patch = model.get("patch_size", (0,))[0]
    sizes = tuple(model.get(key, 0) for key in ("width", "depth", "heads"))
    for name, known in SIZES.items():
        if sizes == known:
            return f"ViT-{name}/{patch}"
    words = {key: model[key] for key in ("arch", "width", "depth") if key in model}
    words |= {"patch": patch} if patch else {}
    return ", ".join(f"{key} {_joined(value)}" for key, value in words.items()) or config.method.name


def _joined(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def data_words(config: ConfigDict) -> str:
    """What was pretrained on, without the place where it lies."""
    source = config.data.source.lower().replace("-", "")
    return next((words for name, words in DATA.items() if name in source), "other images")
