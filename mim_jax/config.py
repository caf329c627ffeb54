"""Configs: load a file, override, check, save, compare.

A config is named by a spec, `configs/mae/cifar10.py:epochs=100,variant=S/4`: the file defines `get_config(arg)`, and
what follows the colon is its argument. `mae/cifar10` is short for such a file, of the working directory or of the
package (`mim_jax.shipped`). A saved `config.json`, or a run directory that holds one, is a spec too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from mim_jax import recipes, shipped
from mim_jax.config_check import OPEN, check, flat
from mim_jax.config_values import literal, nearest_key, parse
from mim_jax.errors import ConfigError, MimError, nearest
from mim_jax.replacing import replacing

__all__ = [
    "arguments",
    "check",
    "diff",
    "fingerprint",
    "flat",
    "load",
    "load_json",
    "matters",
    "nearest",
    "override",
    "save",
    "to_json",
    "to_text",
]

# Keys (or sections) that change how a run is carried out or watched, but not what it computes.
IMMATERIAL = (
    "data.workers",
    "data.cache",
    "data.cache_dir",
    "data.threads",
    "data.prefetch",
    "training.log_every",
    "training.log_records",
    "training.checkpoint",
    "training.evaluate",
    "training.tensorboard",
    "training.wandb",
    "mesh",
    "sharding",
    "evaluation",
    "model.remat",
    "model.scan",
)


def load(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The locked config that `spec` names, with `overrides` such as `optimizer.lr=1e-3` put in.

    Raises:
        ConfigError: no such file, no `get_config` in it, an error inside it, or an override that does not fit.
    """
    path, _, arg = str(spec).partition(":")
    if path.endswith(".json") or os.path.isdir(path):
        if arg:
            raise ConfigError(f"{path} takes no argument ('{arg}'): it is a saved config; use --config.key=value")
        config = load_json(os.path.join(path, "config.json") if os.path.isdir(path) else path)
    else:
        config = _run_file(shipped.find_config(path), arg or None)
    config = override(config, overrides)
    config.lock()
    return config


def _run_file(path: str, arg: str | None) -> ConfigDict:
    if not os.path.isfile(path):
        raise ConfigError(f"there is no config file {path}{shipped.nearest_config(path)}")
    name = f"mim_jax_config_{Path(path).stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or not path.endswith(".py"):
        raise ConfigError(f"{path} is not a config: expected a .py file with get_config(arg), or a saved .json")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses and pickling inside the file look their module up
    try:
        # Compiled here rather than by the loader, which would write bytecode beside the file.
        exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)
        if not callable(getattr(module, "get_config", None)):
            raise ConfigError("it defines no get_config(arg); add that function, which returns the config")
        config = module.get_config(arg)
    except MimError as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:
        raise ConfigError(_fault_in(path, error)) from error
    finally:
        sys.modules.pop(name, None)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config returned {type(config).__name__}, expected an ml_collections.ConfigDict")
    return config


def _fault_in(path: str, error: Exception) -> str:
    """One sentence: the config file, the line in it that failed, and why."""
    if isinstance(error, SyntaxError):
        return f"{path}, line {error.lineno}: {error.msg}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    reason = " ".join(str(text).split())
    return f"{path}, line {lines[-1] if lines else '?'}: {type(error).__name__}: {reason}"


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """A copy of `config` with `key=value` strings put in, each typed by the value that stands there.

    Keys that the method's own sections (`model`, `method`) do not hold yet are added as literals: the method knows
    its settings, and refuses what is none of them.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for text in overrides:
            key, equals, value = text.removeprefix("--").removeprefix("config.").partition("=")
            if not equals:
                raise ConfigError(f"config.{key} needs a value: --config.{key}=VALUE")
            _put(config, key, value)
    return config


def _put(config: ConfigDict, key: str, text: str) -> None:
    full = f"config.{key}"
    parent: Any = config
    *sections, last = key.split(".")
    for name in sections:
        parent = parent[name] if isinstance(parent, ConfigDict) and name in parent else None
    if isinstance(parent, ConfigDict) and last in parent:
        if isinstance(parent[last], ConfigDict):
            example = next(iter(flat(parent[last])), "key")
            raise ConfigError(f"{full} is a section; set one of its keys, such as --{full}.{example}=VALUE")
        value = parse(text, parent[last], full)
        parent[last] = float(value) if isinstance(parent[last], float) else value
    elif parent is not None and sections and sections[0] in OPEN:
        parent[last] = literal(text)
    else:
        raise ConfigError(f"{full} is not a setting{nearest_key(full, (f'config.{k}' for k in flat(config)))}")


def arguments(arg: str | None, **defaults: Any) -> SimpleNamespace:
    """The argument of a config file, `epochs=100,variant=S/4`, each value typed by its default.

    A comma inside a value is understood where the next part has no `=`: `size=32,48`.

    Raises:
        ConfigError: an argument that has no default here, or a value of the wrong type.
    """
    parts: list[str] = []
    for part in (arg or "").split(","):
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    values = dict(defaults)
    for part in filter(str.strip, parts):
        name, equals, text = part.partition("=")
        name = name.strip()
        if name not in defaults:
            raise ConfigError(f"no argument '{name}'{nearest(name, defaults)}")
        if not equals:
            raise ConfigError(f"the argument '{name}' needs a value: {name}=VALUE")
        values[name] = parse(text, defaults[name], name)
    return SimpleNamespace(**values)


def to_json(config: Mapping[str, Any]) -> str:
    """The whole config as JSON, in its own order."""
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return json.dumps(values, indent=2)


def to_text(config: ConfigDict) -> str:
    """One line `key = value` for every value, in the config's own order."""
    return "\n".join(f"{key} = {value!r}" for key, value in flat(config).items())


def save(config: ConfigDict, path: str | os.PathLike[str]) -> None:
    """Writes the config as JSON, whole or not at all."""
    text = to_json(config) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text)


def load_json(path: str | os.PathLike[str]) -> ConfigDict:
    """A saved config, locked. Lists become tuples; keys newer than the file take the recipe's defaults.

    Raises:
        ConfigError: no such file, or not a saved config.
    """
    try:
        values = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no saved config {path}; name a config file, or the folder of a run") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as a saved config: {error}; give one that a run saved") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a saved config: expected an object of sections")
    restored = _restore(values)
    try:
        _fill(restored, recipes.pretrain().to_dict())
        config = ConfigDict(restored)
    except (AttributeError, KeyError, TypeError) as error:  # a value where a section has to be, a key such as __class__
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not a saved config: {reason}; give one that a run saved") from error
    config.lock()
    return config


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _restore(v) for k, v in value.items()}
    return tuple(_restore(v) for v in value) if isinstance(value, list) else value


def _fill(values: dict, defaults: Mapping[str, Any]) -> None:
    for key, default in defaults.items():
        if key == "views" and key in values:  # the names of the views are the config's own
            for view in values[key].values():
                _fill(view, recipes.view())
        elif isinstance(default, dict) and isinstance(values.get(key), dict):
            _fill(values[key], default)
        else:
            values.setdefault(key, default)


def matters(key: str) -> bool:
    """Whether changing `key` changes what the run computes; the others may differ when a run is resumed."""
    return not any(key == name or key.startswith(f"{name}.") for name in IMMATERIAL)


def fingerprint(config: ConfigDict) -> str:
    """SHA-256 (hex) of all that matters in the config: equal for two runs that compute the same function."""
    values = {k: v for k, v in flat(config).items() if matters(k)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def diff(old: ConfigDict, new: ConfigDict, *, only_what_matters: bool = False) -> list[str]:
    """One line `key: old -> new` for every value that differs."""
    return list(_differences(flat(old), flat(new), only_what_matters))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], only_what_matters: bool) -> Iterator[str]:
    for key in (*old, *(k for k in new if k not in old)):
        same = key in old and key in new and _restore(old[key]) == _restore(new[key])
        if not same and (matters(key) or not only_what_matters):
            before = repr(old[key]) if key in old else "(absent)"
            after = repr(new[key]) if key in new else "(absent)"
            yield f"{key}: {before} -> {after}"
