"""Tokenizers and teachers of a run, read from where its config says they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mim_jax import config as configs
from mim_jax.errors import ConfigError, MimError, VerifyError
from mim_jax.interop import noise_bank
from mim_jax.interop.original import dall_e
from mim_jax.methods import registry
from mim_jax.methods.base import Method
from mim_jax.methods.tokenizer import Tokenizer
from mim_jax.methods.vqkd import VQKD
from mim_jax.models.tokenizer import TokenizerConfig
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.positions import resize_positions
from mim_jax.training import bucket
from mim_jax.training.runs import load_run

Tree = Any
FREE = ("source", "precision")  # settings in which a tokenizer may differ from the run that trained it
HOW_IT_RUNS = ("precision", "scan", "remat", "drop_path_rate", "init", "patch_gradient")  # and an encoder that teaches


@dataclasses.dataclass(frozen=True)
class Reader:
    """How one entry of `frozen` is read. check: refuses a source before anything is compiled; need not read weights.

    Both take the source, which exists, and the method; read also the shapes of the entry.
    """

    check: Callable[[Path, Any], None]
    read: Callable[[Path, Any, Tree], Tree]
    untrained: str  # what to do about an empty source


def check(method: Method) -> None:
    """Refuses, before anything is compiled, sources that are not there or hold something else.

    Raises:
        ConfigError: names the key, the value and the mend.
    """
    for name, source in method.sources().items():
        reader, where = READERS.get(name), f"method.{name}.source"
        if reader is None:
            raise ConfigError(f"{where}: nothing is known that reads a '{name}' (known: {', '.join(READERS)})")
        if not source:
            raise ConfigError(
                f"{where} is empty, so {method.name} would learn from an untrained {name}; {reader.untrained}"
            )
        if not bucket.local_folder(source).exists():
            raise ConfigError(f"{where} '{source}' does not exist; {reader.untrained}")
        reader.check(bucket.local_folder(source), method)


def read(method: Method, shapes: Tree) -> dict[str, Tree]:
    """The entries of `frozen` that the method names a source for, in the shapes given, as host arrays.

    Raises:
        ConfigError: a source that is empty, cannot be read or does not fit.
    """
    check(method)
    found = {}
    for name, source in method.sources().items():
        try:
            tree = READERS[name].read(bucket.local_folder(source), method, shapes[name])
        except ConfigError:
            raise
        except MimError as error:
            mend = "; give the published weights" if isinstance(error, VerifyError) else ""
            raise ConfigError(f"method.{name}.source '{source}' cannot be used: {error}{mend}") from error
        found[name] = jax.tree.map(np.asarray, tree)
    return found


def check_tokenizer(source: Path, method: Any) -> None:
    """Compares the settings of `method.tokenizer` with those of the run in `source`; looks for the files of 'dalle'."""
    wanted: TokenizerConfig = method.tokenizer
    if wanted.kind == "dalle":
        return dall_e.check(source, ("encoder", "decoder") if wanted.draws else ("encoder",))
    if not (source / "config.json").exists():
        raise ConfigError(
            f"method.tokenizer.source '{source}' is not a run (no config.json), which method.tokenizer.kind "
            f"'{wanted.kind}' needs; give the --workdir of a run of configs/tokenizer/"
        )
    trained = registry.build(configs.load_json(source / "config.json"))
    if not isinstance(trained, Tokenizer | VQKD):
        raise ConfigError(
            f"method.tokenizer.source '{source}' is a run of '{trained.name}'; give one of configs/tokenizer/ or "
            "configs/vqkd/"
        )
    for field in dataclasses.fields(TokenizerConfig):
        ours, theirs = getattr(wanted, field.name), getattr(trained.model, field.name)
        if field.name not in FREE and ours != theirs:
            raise ConfigError(
                f"method.tokenizer.{field.name} is {ours!r}, but the tokenizer in '{source}' was trained with "
                f"{theirs!r}; set method.tokenizer.{field.name} to {theirs!r} or train another tokenizer"
            )


def read_tokenizer(source: Path, method: Any, shapes: Tree) -> Tree:
    """What `tokenize` and `detokenize` of mim_jax.models.tokenizer take."""
    if method.tokenizer.kind == "dalle":
        return dall_e.read(source, shapes)
    run = load_run(source)
    return run.method.tokenizer(run.variables.params, run.variables.extra)  # type: ignore[attr-defined]


def check_teacher(source: Path, method: Any) -> None:
    """Compares the settings of `method.teacher.model` with those of the encoder of the run in `source`."""
    if not (source / "config.json").exists():
        raise ConfigError(f"method.teacher.source '{source}' is not a run (no config.json); give the --workdir of one")
    config = configs.load_json(source / "config.json")
    trained = registry.build(config)
    theirs = getattr(trained, "model", None)
    if not isinstance(theirs, VitConfig):
        raise ConfigError(
            f"method.teacher.source '{source}' is a run of '{trained.name}', which has no ViT to teach; give another"
        )
    for field in dataclasses.fields(VitConfig):
        own, wanted = (_setting(field.name, m, c) for m, c in ((trained, theirs), (method, method.teacher.model)))
        if field.name == "projection" and not wanted:
            continue  # the tokens before it are a target too
        if field.name == "image_size" and theirs.relative_bias == "none":
            continue  # positions are resized
        if field.name not in HOW_IT_RUNS and own != wanted:
            raise ConfigError(
                f"method.teacher.model.{field.name} is {wanted!r}, but the encoder in '{source}' has {own!r}; "
                f"set method.teacher.model.{field.name} to {own!r} or give another run"
            )
    _check_norm(source, trained)
    for key in ("mean", "std"):
        own, wanted = tuple(config.data[key]), getattr(method.teacher, key)
        if len(own) != len(wanted) or not np.allclose(own, wanted, atol=1e-4):
            raise ConfigError(
                f"method.teacher.{key} is {wanted}, but the encoder in '{source}' was trained with data.{key} {own}; "
                f"set method.teacher.{key} to that"
            )


def _setting(key: str, method: Any, config: VitConfig) -> Any:
    """A setting of an encoder's config as it stands in its parameters."""
    value = getattr(config, key)
    if key == "positions" and (value == "learned_sincos" or (value == "sincos" and method.name == "finetune")):
        return "learned"  # how they started makes no difference; fine-tuning trains them (`models.classifier`)
    return value


def _check_norm(source: Path, trained: Any) -> None:
    if getattr(trained, "pooling", "cls") != "cls":
        raise ConfigError(
            f"method.teacher.source '{source}' was fine-tuned with method.pooling '{trained.pooling}', so its encoder "
            "has no final norm and cannot teach; give the run that it started from, or one with pooling 'cls'"
        )


def read_teacher(source: Path, method: Any, shapes: Tree) -> Tree:
    """The encoder of a run that is judged (its moving average, where the method keeps one) as `Vit` takes it; what else
    that method keeps in it (a mask token) is left out."""
    run = load_run(source)
    encoder = run.method.encoder_params(run.variables.params, run.variables.extra)
    lacking = sorted(set(shapes) - set(encoder))
    if lacking:
        raise ConfigError(
            f"method.teacher.source '{source}': its encoder has no '{lacking[0]}', so it cannot teach; give another run"
        )
    found = {name: encoder[name] for name in shapes}
    if "pos_embed" in shapes:
        ours, theirs = method.teacher.model, run.method.model
        resized = (theirs.grid, ours.grid, ours.prefix, ours.position_offset, ours.position_antialias)
        found["pos_embed"] = resize_positions(encoder["pos_embed"], *resized)
    return found


# Entry of `frozen` -> how it is read. A further teacher is added by a line.
READERS = {
    "tokenizer": Reader(
        check_tokenizer,
        read_tokenizer,
        "train one (mim-jax train --config configs/tokenizer/cifar10.py --workdir runs/tokenizer) and set "
        "method.tokenizer.source to its folder, or for method.tokenizer.kind 'dalle' to the published weights",
    ),
    "noise": Reader(
        noise_bank.check,
        noise_bank.read,
        "make one (mim-jax data noise FOLDER) or leave method.noise.source empty",
    ),
    "teacher": Reader(
        check_teacher,
        read_teacher,
        "pretrain an encoder (mim-jax train --config configs/mae/cifar10.py --workdir runs/mae) and set "
        "method.teacher.source to its folder",
    ),
}
