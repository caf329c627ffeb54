"""Judges a run: every protocol on the pretrained encoder, and beside it on an untrained one and on raw pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.evaluation import results, table
from mim_jax.evaluation.encoders import Encoder, is_feature, raw_pixels, vectors
from mim_jax.evaluation.entry import bare, entry
from mim_jax.evaluation.protocol import Numbers, Protocol, Task
from mim_jax.evaluation.registry import PROTOCOLS, protocol
from mim_jax.evaluation.suites import suite as find_suite
from mim_jax.evaluation.unfinished import Unfinished, job_key
from mim_jax.training.checkpoints import Which
from mim_jax.training.runs import Run, example_batch, load_run

CHANGEABLE = ("data.", "evaluation.", "seed")


def evaluate(
    run_dir: str | os.PathLike[str],
    protocols: Sequence[str] | None = None,
    *,
    suite: str = "",
    step: Which = None,
    source: str = "",
    eval_source: str = "",
    baselines: bool = True,
    seeds: int = 1,
    overrides: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Runs the protocols, prints a table, adds one result per protocol to the run's eval.json and returns them.

    suite: a named set of protocols (and settings), before those named one by one; 'quick' where nothing is named.
    step: which checkpoint, None for the newest. source, eval_source: other labelled data than the run's own.
    baselines: the same probes on an untrained encoder and on raw pixels. seeds: how many, from `config.seed` on, for
    mean and spread. overrides: `evaluation.knn.k=20`, without `--config.`; of the run's config only `data`,
    `evaluation` and `seed` can change.

    An evaluation that is interrupted and asked for again goes on at the protocol it was in.

    Raises:
        ConfigError, DataError, CheckpointError: one sentence that names what does not serve.
    """
    named = suite or ("quick" if protocols is None else "")
    asked = (*(find_suite(named).protocols if named else ()), *(protocols or ()))
    chosen = {name: protocol(name) for name in dict.fromkeys(asked)}
    if not chosen:
        raise ConfigError(f"no protocol was asked for; choose from {', '.join(PROTOCOLS)}")
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least one seed is needed")
    changes = [f"evaluation.{change}" for change in find_suite(suite).changes] if suite else []
    changes += [bare(change) for change in overrides]
    changes += [f"data.source={source}"] * bool(source) + [f"data.eval_source={eval_source}"] * bool(eval_source)
    run = load_run(run_dir, step)
    config = _changed(run.config, changes)
    built = [kind.from_config(config.evaluation) for kind in chosen.values()]
    _check_features(run, built)
    found: dict[str, dict[str, dict[int, Numbers]]] = {p.name: {} for p in built}
    unfinished, say = Unfinished(run_dir), _say_once()
    for encoder in _encoders(run, baselines and any(p.baselines for p in built)):
        mine = [p for p in built if encoder.name == "pretrained" or encoder.name in p.baselines]
        for one, by_seed in _judge(run, config, encoder, mine, seeds, unfinished, say):
            found[one.name][encoder.name] = by_seed
    entries = [entry(run, config, one, found[one.name], changes) for one in built]
    if jax.process_index() == 0:
        results.append(run_dir, entries)
        table.show(entries)
    unfinished.clear()
    return entries


def _judge(
    run: Run,
    config: Any,
    encoder: Encoder,
    protocols: Sequence[Protocol],
    seeds: int,
    unfinished: Unfinished,
    say: Callable[[str], None],
) -> Iterator[tuple[Protocol, dict[int, Numbers]]]:
    """Every protocol on one encoder; what an earlier attempt has found is not computed again."""
    wanted = [name for p in protocols for name in p.features(run.method) if is_feature(name)]
    task = Task(
        encoder,
        config.data,
        tuple(dict.fromkeys(wanted)),
        batch_size=config.evaluation.knn.batch_size,
        limit=config.evaluation.limit,
        say=say,
        evaluation=config.evaluation,
    )
    for one in protocols:
        by_seed: dict[int, Numbers] = {}
        for seed in range(config.seed, config.seed + (seeds if one.random else 1)):
            key = job_key(one, encoder.name, seed, run.checkpoint_hash, config.data, config.evaluation.limit)
            numbers = unfinished.get(key)
            if numbers is None:
                task.restart(seed, Path(run.workdir) / "eval" / one.name / f"{encoder.name}-{key[:8]}")
                say(f"{one.name}, {encoder.name}" + (f", seed {seed}" if seeds > 1 else ""))
                numbers = one.run(task)
                unfinished.add(key, numbers)
            else:
                say(f"{one.name}, {encoder.name}: taken from the evaluation that was interrupted")
            by_seed[seed] = numbers
        yield one, by_seed


def _check_features(run: Run, protocols: Sequence[Protocol]) -> None:
    """Refuses a feature that the encoder does not have before anything is computed."""
    images = example_batch(run.config)["image"]
    names = tuple(n for p in protocols for n in p.features(run.method) if is_feature(n))
    jax.eval_shape(lambda variables: vectors(run.method, variables, images, names), run.variables)


def _changed(config: Any, changes: Sequence[str]) -> Any:
    """The config with the changes, checked; without any the run's own, whose rules may be those of an older version."""
    for key in (change.partition("=")[0] for change in changes):
        if not key.startswith(CHANGEABLE):
            raise ConfigError(
                f"config.{key} belongs to the pretraining and cannot be changed at evaluation; "
                f"only config.data, config.evaluation and config.seed can"
            )
    changed = configs.override(config, changes)
    if changes:
        configs.check(changed)
    return changed


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
