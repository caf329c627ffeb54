"""What a program of an exported run computes: arrays and images in, named features or logits out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from mim_jax.errors import ConfigError
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
    if part == "classifier" and run.method.name != "finetune":
        raise ConfigError(f"a run of {run.method.name} has no classifier; take --part encoder")
    has_cls = getattr(run.method.model, "cls_token", False)
    names = ("logits",) if part == "classifier" else ("cls", "patches", "pooled") if has_cls else ("patches", "pooled")
    return PartFunction(part_weights(run, part), names, run)


def part_weights(run: Run, part: str) -> dict[str, Any]:
    """Arrays by path, `params/...` and `extra/...`; of an encoder all that `encode` reads."""
    method, variables = run.method, run.variables
    if part != "encoder":
        return flat(Variables(params=variables.params, extra=variables.extra))
    extra = variables.extra
    if method.encoder_copies:  # the encoder is judged by its moving average
        top = {path.partition("/")[0] for path in method.encoder_copies}
        kept = flat({name: extra[name] for name in top})
        paths = {name: leaf for name, leaf in kept.items() if name.startswith(method.encoder_copies[0])}
        found = {f"extra/{name}": leaf for name, leaf in paths.items()}
    else:
        found = {f"params/encoder/{name}": leaf for name, leaf in flat(variables.params["encoder"]).items()}
        found |= {f"params/fc_norm/{n}": leaf for n, leaf in flat(variables.params.get("fc_norm", {})).items()}
    if method.encoder_statistics:
        own = flat(extra.get(method.encoder_statistics, {}))
        found |= {f"extra/{method.encoder_statistics}/{name}": leaf for name, leaf in own.items()}
    return found


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
