"""Judges a run: every protocol on the pretrained encoder, and beside it on an untrained one and on raw pixels."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from mim_jax import config as configs
from mim_jax.errors import ConfigError, nearest
from mim_jax.evaluation import results, table
from mim_jax.evaluation.attentive import Attentive
from mim_jax.evaluation.encoders import FEATURES, Encoder, raw_pixels
from mim_jax.evaluation.knn import KNN
from mim_jax.evaluation.linear import Linear
from mim_jax.evaluation.protocol import Numbers, Protocol, Task
from mim_jax.training.checkpoints import Which
from mim_jax.training.resolve import git_revision, versions
from mim_jax.training.runs import Run, load_run

# The protocols, by name. Adding one is a line here.
PROTOCOLS: dict[str, type[Protocol]] = {"knn": KNN, "linear": Linear, "attentive": Attentive}
CHANGEABLE = ("data.", "evaluation.", "seed")


def evaluate(
    run_dir: str | os.PathLike[str],
    protocols: Sequence[str] = ("knn", "linear"),
    *,
    step: Which = None,
    source: str = "",
    eval_source: str = "",
    baselines: bool = True,
    overrides: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Runs the protocols, prints a table, adds one result per protocol to the run's eval.json and returns them.

    step: which checkpoint, None for the newest. source, eval_source: other labelled data than the run's own.
    baselines: the same probes on an untrained encoder and on raw pixels. overrides: `evaluation.knn.k=20`, without
    `--config.`; of the run's config only `data`, `evaluation` and `seed` can be changed.

    Raises:
        ConfigError, DataError, CheckpointError: one sentence that names what does not serve.
    """
    chosen = {name: _protocol(name) for name in dict.fromkeys(protocols)}
    if not chosen:
        raise ConfigError(f"no protocol was asked for; choose from {', '.join(PROTOCOLS)}")
    changes = [*overrides, *([f"data.source={source}"] if source else [])]
    changes += [f"data.eval_source={eval_source}"] if eval_source else []
    run = load_run(run_dir, step)
    config = _changed(run.config, changes)
    built = {name: kind.from_config(config.evaluation) for name, kind in chosen.items()}
    found: dict[str, dict[str, Numbers]] = {name: {} for name in built}
    say = _say_once()
    for encoder in _encoders(run, baselines):
        task = Task(
            encoder,
            config.data,
            tuple(protocol.feature for protocol in built.values() if protocol.feature in FEATURES),
            batch_size=config.evaluation.knn.batch_size,
            seed=config.seed,
            say=say,
        )
        for name, protocol in built.items():
            found[name][encoder.name] = protocol.run(task)
    entries = [_entry(run, config, built[name], found[name], changes) for name in built]
    if jax.process_index() == 0:
        results.append(run_dir, entries)
        table.show(entries)
    return entries


def _protocol(name: str) -> type[Protocol]:
    if name not in PROTOCOLS:
        raise ConfigError(f"'{name}' is not a protocol{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def _changed(config: Any, changes: Sequence[str]) -> Any:
    for change in changes:
        key = change.removeprefix("--").removeprefix("config.")
        if not key.startswith(CHANGEABLE):
            raise ConfigError(
                f"config.{key.partition('=')[0]} belongs to the pretraining and cannot be changed at evaluation; "
                f"only config.data, config.evaluation and config.seed can"
            )
    return configs.override(config, changes)


def _encoders(run: Run, baselines: bool) -> Iterator[Encoder]:
    """One after the other, so that the features of only one are held."""
    yield Encoder("pretrained", run.variables, run.method)
    if baselines:
        yield Encoder("untrained", run.fresh(), run.method)
        yield raw_pixels()


def _say_once() -> Callable[[str], None]:
    """Prints each sentence once, though every encoder gives cause for it."""
    said: set[str] = set()

    def say(sentence: str) -> None:
        if sentence not in said and jax.process_index() == 0:
            print(sentence, flush=True)
        said.add(sentence)

    return say


def _entry(
    run: Run, config: Any, protocol: Protocol, found: dict[str, Numbers], changes: Sequence[str]
) -> dict[str, Any]:
    """One result with everything that it takes to get it again."""
    judged, *others = found.values()
    data = config.data
    command = ["mim-jax", "eval", str(run.workdir), f"--{protocol.name}", "--step", str(run.step)]
    command += [] if others else ["--no-baselines"]
    command += [f"--config.{change.removeprefix('--').removeprefix('config.')}" for change in changes]
    entry = {
        "protocol": protocol.name,
        "feature": protocol.feature,
        "metrics": judged.metrics,
        "baselines": {name: numbers.metrics for name, numbers in list(found.items())[1:]},
        "counts": judged.counts,
        "settings": {**dataclasses.asdict(protocol), **judged.settings},
        "details": {name: numbers.details for name, numbers in found.items() if numbers.details},
        "data": {
            "source": data.source,
            "eval_source": data.eval_source or f"a fixed tenth of {data.source}, the rest to learn from",
            "split": "eval",
            "size": next(iter(data.views.values())).size,
            **{key: data[key] for key in ("channels", "mean", "std", "eval_resize")},
        },
        "checkpoint": {"run": str(Path(run.workdir).resolve()), "step": run.step, "hash": run.checkpoint_hash},
        "seed": config.seed,
        "versions": versions(),
        "git revision": git_revision(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "command": shlex.join(command),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return json.loads(json.dumps(entry))  # as it will be read back: tuples become lists
