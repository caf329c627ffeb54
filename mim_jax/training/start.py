"""Where a run's weights come from when they are not random: the encoder of another run, or everything that it has.

Fine-tuning and continued pretraining both begin so. It is done once, when a run begins; what continues has its weights
in its own checkpoint and reads no source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mim_jax.errors import CheckpointError, ConfigError
from mim_jax.methods.base import Method, Variables
from mim_jax.training import bucket
from mim_jax.training.fit import Fitted, fit
from mim_jax.training.groups import flat, path_name
from mim_jax.training.runs import load_run
from mim_jax.training.sharding import place
from mim_jax.training.state import TrainState

Tree = Any
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Source:
    """A method with its weights; name: what messages call it, such as a run's folder."""

    name: str
    method: Method
    variables: Variables

    @property
    def encoder(self) -> Tree:
        return self.method.encoder_params(self.variables.params, self.variables.extra)

    def encoder_for(self, method: Method) -> tuple[Tree, Any]:
        """Parameters and config: of the whole encoder for a run of the same method, else of what serves images."""
        if method.name == self.method.name:
            return self.encoder, self.method.model
        return self.method.image_encoder(self.variables.params, self.variables.extra), self.method.image_model


class Start:
    """Puts a source's weights into a fresh state.

    read: gives the source, None where the weights stay random; called only where a run begins. what: encoder | all
    (decoder, heads and state of the method too, for a run of the same method). say: takes a sentence on what was taken.
    """

    def __init__(self, method: Method, read: Callable[[], Source | None], what: str = "encoder", say: Say = print):
        self.method, self.what, self._read, self._say = method, what, read, say
        self._found: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None = None

    def check(self) -> None:
        """Reads the source and refuses what does not fit, before anything is compiled.

        Raises:
            ConfigError: names the key or parameter and both shapes, or says that there is no such run.
        """
        source = self._read() if self._found is None else None
        if source is not None:
            self._found = self._fitted(source)

    def __call__(self, state: TrainState) -> TrainState:
        """The state with the source's weights, each where the fresh one lay; the moving average starts from them."""
        self.check()
        if self._found is None:
            return state
        params, extra = self._found
        self._found = None
        average = {} if not state.ema else {"ema": _put(state.ema, params)}
        return state.replace(params=_put(state.params, params), extra=_put(state.extra, extra), **average)

    def _fitted(self, source: Source) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Arrays by path in `params` and in `extra`."""
        views = {name: jax.ShapeDtypeStruct(shape.array(1), jnp.float32) for name, shape in self.method.views().items()}
        shapes = jax.eval_shape(self.method.init, jax.random.key(0), views)
        if "encoder" not in shapes.params:
            raise ConfigError(
                f"{self.method.name} has no encoder that could start from {source.name}; "
                "leave training.start_from empty"
            )
        given, model = source.encoder_for(self.method)
        found = fit(flat(given), model, flat(shapes.params["encoder"]), self.method.model, source.name)
        params = {f"encoder/{path}": value for path, value in found.arrays.items()}
        extra = self._statistics(source, shapes.extra)
        for copy in self.method.encoder_copies:
            extra |= {f"{copy}/{path}": v for path, v in found.arrays.items() if f"{copy}/{path}" in flat(shapes.extra)}
        if self.what == "all":
            params, extra = self._everything(source, shapes, params)
        self._say(_sentence(source.name, found, [name for name in shapes.params if not _within(name, params)]))
        return params, extra

    def _statistics(self, source: Source, shapes: Tree) -> dict[str, np.ndarray]:
        """Running statistics of the encoder's batch norms."""
        ours, theirs = self.method.encoder_statistics, source.method.encoder_statistics
        wanted = flat(shapes.get(ours, {})) if ours else {}
        given = flat((source.variables.extra or {}).get(theirs, {})) if theirs else {}
        if wanted and given.keys() != wanted.keys():
            raise ConfigError(f"{source.name} has other batch norms in its encoder than the model of this run")
        return {f"{ours}/{path}": np.asarray(given[path]) for path in wanted}

    def _everything(self, source: Source, shapes: Variables, encoder: dict[str, np.ndarray]) -> tuple[dict, dict]:
        """All parameters and all state of a run of the same method; the encoder as it was fitted."""
        if source.method.name != self.method.name:
            raise ConfigError(
                f"training.start_what 'all' needs a run of {self.method.name}, but {source.name} is one of "
                f"{source.method.name}; take 'encoder'"
            )
        self._check_patches(source)
        parts: list[dict[str, np.ndarray]] = []
        for given, wanted in ((source.variables.params, shapes.params), (source.variables.extra, shapes.extra)):
            taken = {**{path: np.asarray(value) for path, value in flat(given).items()}}
            taken |= encoder if wanted is shapes.params else {}
            for path, shape in flat(wanted).items():
                if path not in taken or taken[path].shape != shape.shape:
                    has = f"has it as {taken[path].shape}" if path in taken else "has none"
                    raise ConfigError(
                        f"training.start_what 'all': this run has {path} as {shape.shape}, {source.name} {has}; "
                        "make the configs agree, or take 'encoder'"
                    )
            parts.append({path: taken[path] for path in flat(wanted)})
        return parts[0], parts[1]

    def _check_patches(self, source: Source) -> None:
        """Refuses patches that have as many values in another order: what is predicted of them would mean something
        else, and no shape would show it."""
        theirs, ours = ((m.model, getattr(m.model, "patch_values", 0)) for m in (source.method, self.method))
        if not self.method.masks or not ours[1] or theirs[1] != ours[1]:
            return
        patches = [(*model.patch_size, model.channels) for model, _ in (theirs, ours)]
        if patches[0] != patches[1]:
            raise ConfigError(
                f"training.start_what 'all': {source.name} has heads for patches of {patches[0]} (height, width, "
                f"channels), which cannot be changed to {patches[1]}; take 'encoder'"
            )


def from_config(config: ConfigDict, method: Method, say: Say = print) -> Start:
    """The start that `training.start_from` names; random weights where it names none."""
    where, what = config.training.start_from, config.training.start_what

    def read() -> Source | None:
        if not where:
            return None
        if not (bucket.local_folder(where) / "config.json").exists():
            raise ConfigError(f"training.start_from '{where}' is not a run (no config.json); give the --workdir of one")
        try:
            run = load_run(where)
        except CheckpointError as error:
            raise ConfigError(f"training.start_from '{where}' cannot be used: {error}") from error
        return Source(f"training.start_from '{where}'", run.method, run.variables)

    return Start(method, read, what, say)


def _put(tree: Tree, values: Mapping[str, np.ndarray]) -> Tree:
    """The tree with the named leaves replaced, where and in the type in which they were."""

    def put(path: tuple, leaf: jax.Array) -> jax.Array:
        value = values.get(path_name(path))
        return leaf if value is None else place(np.asarray(value, leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(put, tree)


def _within(name: str, params: Mapping[str, Any]) -> bool:
    return any(path == name or path.startswith(f"{name}/") for path in params)


def _sentence(name: str, found: Fitted, fresh: list[str]) -> str:
    """What was taken, what was changed, what is new and what was left."""
    short = lambda paths: list(dict.fromkeys(path.partition("/")[0] for path in paths))  # noqa: E731
    parts = [f"{len(found.arrays)} arrays of the encoder taken from {name.removeprefix('training.start_from ')}"]
    parts += found.changed
    parts += [f"new: {', '.join([*short(found.new), *fresh])}"] if found.new or fresh else []
    parts += [f"left: {', '.join(short(found.left))}"] if found.left else []
    return "start: " + "; ".join(parts)
