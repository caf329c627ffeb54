"""The run that imported weights become: its config, its variables, its folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.interop import frozen
from mim_jax.interop.format import Settings
from mim_jax.methods import registry
from mim_jax.methods.base import Method, Variables
from mim_jax.methods.classifiers import encoder_section
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.groups import flat, path_name
from mim_jax.training.runs import IMPORT_NOTE, fresh_variables
from mim_jax.training.start import Source as StartSource
from mim_jax.training.start import Start
from mim_jax.training.state import TrainState


def config_of(
    method: str, settings: Settings, base: ConfigDict | None = None, overrides: Sequence[str] = ()
) -> ConfigDict:
    """The config of a run of `method` whose sizes and switches are those of `settings`.

    base: what the run has besides; by default the recipe. overrides: `key=value`. The views of the data become those
    that the method asks for.

    Raises:
        ConfigError: settings that no model of the method can have.
    """
    config = recipes.pretrain() if base is None else base.copy_and_resolve_references()
    with config.unlocked():
        config.method.name = method
        for section in ("model", "method", "data"):
            for key, value in settings.get(section, {}).items():
                config[section][key] = value
        config.optimizer.ema = 0.0
        if base is None:
            config.training.precision = "fp32"
    config = configs.override(config, overrides)
    config.lock()
    fit_views(config, registry.build(config))
    return config


def config_of_method(method: Method) -> ConfigDict:
    """The config of a run of a method in hand: `registry.build` makes the same method of it."""
    values: dict[str, Any] = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    sections = {name: _section_of(value) for name, value in values.items()}
    model = {key: value for key, value in sections.pop("model").items() if key != "precision"}
    if method.name == "finetune":
        model = encoder_section(method.model)
    return config_of(method.name, {"model": model, "method": sections})


def _section_of(value: Any) -> Any:
    """A part of a method as a config has it: dataclasses and ((name, dataclass), ...) as sections."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    named = isinstance(value, tuple) and value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
    if named and all(dataclasses.is_dataclass(part) for _, part in value):
        return {name: _section_of(part) for name, part in value}
    return value


def fit_views(config: ConfigDict, method: Method) -> None:
    """Makes the views of the data those that the method asks for; where the size of the images changes, the resize of
    evaluation follows, for unknown views in the usual proportion (256 for 224)."""
    with config.unlocked():
        views, old = method.views(), config.data.views
        config.data.channels = views["image"].channels
        before, side = min(old.image.size) if "image" in old else 0, min(views["image"].size)
        if before != side:
            scale = config.data.eval_resize / before if before else (1.0 if side < 64 else 8 / 7)
            config.data.eval_resize = round(side * scale)
        made = {}
        for name, view in views.items():
            if view.given:
                continue  # a map, whose files only the data knows
            given = old[name].to_dict() if name in old else recipes.view()
            made[name] = given | {"size": view.size, "count": view.count, "normalize": view.normalize}
        config.data.views = ConfigDict(made)


def with_encoder(method: Method, fresh: Variables, found: Variables) -> Variables:
    """`fresh` with the encoder of `found` (`params/encoder`, `extra/encoder`) wherever the method keeps it."""
    encoder, statistics = flat(found.params["encoder"]), flat((found.extra or {}).get("encoder", {}))
    values = {f"params/encoder/{path}": leaf for path, leaf in encoder.items()}
    for copy in method.encoder_copies:
        values |= {f"extra/{copy}/{path}": leaf for path, leaf in encoder.items()}
    values |= {f"extra/{method.encoder_statistics}/{path}": leaf for path, leaf in statistics.items()}

    def put(path: tuple, leaf: Any) -> Any:
        value = values.get(path_name(path))
        return leaf if value is None else jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(put, fresh)


def fitted(
    name: str, method: Method, variables: Variables, wanted: Method, fresh: Variables, what: str, say: Any
) -> Variables:
    """The variables of `method` for `wanted`, the same system on another grid, patch or number of channels.

    what: encoder (the rest stays as in `fresh`) | all.

    Raises:
        ConfigError: what cannot be fitted without guessing.
    """
    start = Start(wanted, lambda: StartSource(name, method, variables), what, say)
    state = start(_state(fresh))
    return fresh.replace(params=state.params, extra=state.extra)


def write_run(out: Path, config: ConfigDict, method: Method, variables: Variables, note: Mapping[str, Any]) -> None:
    """A run at step 0 in the folder `out`: config, checkpoint, frozen parts where their source is known, the note."""
    out.mkdir(parents=True, exist_ok=True)
    configs.save(config, out / "config.json")
    with Checkpoints(out, meta={"seed": config.seed}) as checkpoints:
        checkpoints.save(0, _state(variables), force=True)
        if method.sources() and all(method.sources().values()):
            shapes = jax.eval_shape(lambda: fresh_variables(config, method)).frozen
            checkpoints.save_frozen(jax.tree.map(np.asarray, frozen.read(method, shapes)))
        elif not method.sources():
            checkpoints.save_frozen(variables.frozen)
        checkpoints.wait()
    (out / IMPORT_NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def _state(variables: Variables) -> TrainState:
    """A state without an optimizer: what was imported has none."""
    as_arrays = lambda tree: jax.tree.map(jnp.asarray, tree)  # noqa: E731
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=as_arrays(variables.params),
        opt_state={},
        extra=as_arrays(variables.extra),
        ema={},
        skipped=jnp.zeros((), jnp.int32),
        hold=jnp.zeros((), bool),
    )
