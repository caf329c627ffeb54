"""Pipelines: one config whose stages are runs, trained in order, each in a folder of the workdir.

A config file gives `ConfigDict({"stages": {"tokenizer": ..., "encoder": ...}})`, each a whole config of a run. A value
`stage:NAME` in a later stage stands for the run directory of an earlier one. The same command goes on where a pipeline
stopped: stages that are done are passed over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax.errors import CheckpointError, ConfigError, MimError, nearest
from mim_jax.pretrain import check_all, pretrain
from mim_jax.training import bucket
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.events import say

PREFIX = "stage:"


def is_pipeline(config: ConfigDict) -> bool:
    return "stages" in config


def stages(config: ConfigDict, workdir: str | Path) -> dict[str, ConfigDict]:
    """The configs of the stages in their order, with the run directories of earlier stages put in.

    Raises:
        ConfigError: a key beside `stages`, no stage, or a value that names a stage which does not come before.
    """
    others = [key for key in config if key != "stages"]
    if others or not len(config.stages):
        wrong = f"config.{others[0]} stands beside config.stages" if others else "config.stages is empty"
        raise ConfigError(f"{wrong}; a pipeline is stages = {{name: config of a run, ...}} and nothing else")
    found: dict[str, ConfigDict] = {}
    for name, stage in config.stages.items():
        made = stage.copy_and_resolve_references()
        with made.unlocked():
            for key, value in configs.flat(made).items():
                if isinstance(value, str) and value.startswith(PREFIX):
                    _put(made, key, str(_folder_of(value, found, workdir, f"stages.{name}.{key}")))
        made.lock()
        found[name] = made
    return found


def train(config: ConfigDict, workdir: str | Path) -> bool:
    """`mim-jax train`: a run, or the stages of a pipeline one after the other; whether all was trained to the end.

    Raises:
        MimError: as `pretrain`, with the name of the stage. All stages are checked before the first begins.
    """
    if not is_pipeline(config):
        return pretrain(config, workdir)
    check(config, workdir)
    found = stages(config, workdir)
    for number, (name, stage) in enumerate(found.items(), 1):
        folder, which = bucket.join(workdir, name), f"stage {number} of {len(found)}, {name}"
        if is_done(stage, folder):
            say(f"{which}: done already, in {folder}")
            continue
        say(f"{which}: {folder}")
        if not _named(name, pretrain, stage, folder):
            return False
    return True


def check(config: ConfigDict, workdir: str | Path = ".") -> None:
    """`mim-jax config check`: refuses a run, or any stage of a pipeline, that cannot run.

    Raises:
        ConfigError: the key and its value, with the name of the stage.
    """
    if not is_pipeline(config):
        check_all(config)
        return
    for name, stage in stages(config, workdir).items():
        _named(name, check_all, stage)


def _named(name: str, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except MimError as error:
        raise type(error)(f"stage {name}: {error}") from error


def _folder_of(value: str, earlier: dict[str, ConfigDict], workdir: str | Path, key: str) -> str | Path:
    name = value.removeprefix(PREFIX)
    if name not in earlier:
        mend = nearest(name, earlier) or "; no stage comes before this one, so give the folder of a run"
        raise ConfigError(f"config.{key} = '{value}' names no earlier stage{mend}")
    return bucket.join(workdir, name)


def _put(config: ConfigDict, key: str, value: str) -> None:
    *sections, last = key.split(".")
    for name in sections:
        config = config[name]
    config[last] = value


def is_done(config: ConfigDict, where: str | Path) -> bool:
    """Whether the run in `where`, or every stage of a pipeline there, is this one and has taken all its steps."""
    if is_pipeline(config):
        return all(is_done(stage, bucket.join(where, name)) for name, stage in stages(config, where).items())
    try:
        folder = bucket.local_folder(where)
        steps = json.loads((folder / "resolved.json").read_text())["steps"]["total"]
        if configs.diff(configs.load_json(folder / "config.json"), config):
            return False
        with Checkpoints(folder, read_only=True) as checkpoints:
            return checkpoints.latest_step() == steps
    except (OSError, ValueError, KeyError, ConfigError, CheckpointError):
        return False
