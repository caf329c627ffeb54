"""What a program of an exported run computes: arrays and images in, named features or logits out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from mim_jax.errors import ConfigError
from mim_jax.interop.format import classifies
from mim_jax.methods.base import Variables
from mim_jax.training.groups import flat
from mim_jax.training.runs import Run


@dataclass(frozen=True)
class PartFunction:
    """weights: the arrays by path. names: of the outputs, in order."""

    weights: Mapping[str, Any]
    names: tuple[str, ...]
    run: Run

    def __call__(self, weights: Mapping[str, Any], images: Any) -> tuple[Any, ...]:
        """The outputs for normalised images (B, H, W, C), float32."""
        method: Any = self.run.method
        tree = nested(weights)
        params, extra = tree.get("params", {}), tree.get("extra", {})
        if self.names == ("logits",):
            return (method.classify(params, images, extra).logits.astype(jnp.float32),)
        found = method.encode(params, images, extra=extra)
        return tuple(getattr(found, name).astype(jnp.float32) for name in self.names)


def part_function(run: Run, part: str) -> PartFunction:
    """The program of a part: 'encoder' gives cls (where there is one), patches and pooled; 'classifier' logits.

    Raises:
        ConfigError: a part that is no function of images alone.
    """
    if part == "all":
        raise ConfigError("a program is made of the encoder or the classifier; the whole method needs masks too")
    if part == "classifier" and not classifies(run.method):
        raise ConfigError(f"a run of {run.method.name} has no classifier; take --part encoder")
    has_cls = getattr(run.method.model, "cls_token", False)
    names = ("logits",) if part == "classifier" else ("cls", "patches", "pooled") if has_cls else ("patches", "pooled")
    return PartFunction(part_weights(run, part), names, run)


def part_weights(run: Run, part: str) -> dict[str, Any]:
    """Arrays by path, `params/...` and `extra/...`; of an encoder those of every module that `encode` reads."""
    everything = flat(Variables(params=run.variables.params, extra=run.variables.extra))
    if part != "encoder":
        return everything
    modules = {_module(path) for path in _read_by_encode(run, everything)}
    return {path: leaf for path, leaf in everything.items() if _module(path) in modules}


def _module(path: str) -> str:
    """The module that a leaf belongs to: 'params/encoder', 'extra/teacher/encoder'."""
    parts = path.split("/")
    return "/".join(parts[: 3 if parts[0] == "extra" and len(parts) > 3 else 2])


def _read_by_encode(run: Run, everything: Mapping[str, Any]) -> list[str]:
    """The paths of all arrays on which the features depend (a method may keep its final norm in its head)."""
    shape = run.method.views()["image"].array(1)[-3:]

    def features(weights: Mapping[str, Any], images: Any) -> Any:
        tree = nested(weights)
        found = run.method.encode(tree.get("params", {}), images, extra=tree.get("extra", {}))
        return [value for value in (found.cls, found.patches, found.pooled) if value is not None]

    program = jax.make_jaxpr(features)(dict(everything), jnp.zeros((1, *shape)))
    _, used = partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.out_avals))
    # Arguments lie in the order in which jax flattens a dict: sorted by key.
    return [path for path, needed in zip(sorted(everything), used, strict=False) if needed]


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Dictionaries in dictionaries from paths joined by '/'."""
    tree: dict[str, Any] = {}
    for path, leaf in arrays.items():
        *parents, last = path.split("/")
        at = tree
        for name in parents:
            at = at.setdefault(name, {})
        at[last] = leaf
    return tree
