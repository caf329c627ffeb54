"""What formats of the authors' own checkpoints share: how their files nest arrays, and what shapes show of a model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mim_jax.interop.format import Arrays, Format, Settings, nothing
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.methods.base import Method
from mim_jax.models.vit_config import VitConfig

Allowed = Mapping[str, tuple[Any, ...]]  # values by keys of a config
# What the vision transformers are that the authors' codes build, beside their sizes and positions.
PLAIN: Allowed = {
    "qkv_bias": ("full",),
    "relative_bias": ("none",),
    "layer_scale": (0.0,),
    "cls_token": (True,),
    "layer_norm_eps": (1e-6,),
}
BEIT: Allowed = {"qkv_bias": ("qv", "none"), "cls_token": (True,), "layer_norm_eps": (1e-6,)}
TEACHER = {"^frozen/": "a frozen teacher, of which a case gives what it says"}  # not ours to load
AVERAGES = ("model_ema", "ema")  # moving averages that fine-tuning scripts keep beside the network


def network(source: Source) -> Arrays:
    """The arrays of the one network of a file, without what training scripts wrap around it; a moving average beside
    it is left out."""
    alone = {name: array for name, array in source.arrays.items() if name.partition(".")[0] not in AVERAGES}
    return dataclasses.replace(source, arrays=alone).state()


def networks(source: Source) -> Arrays:
    """The arrays of a file that holds several networks by name, without the `module.` that parallel training puts
    between that name and the array's."""
    return {re.sub(r"^(\w+)\.module\.", r"\1.", name): array for name, array in source.arrays.items()}


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> Arrays:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def checkpoint(
    name: str,
    part: str,
    *,
    accepts: Callable[[Arrays], bool],
    shows: Callable[[Arrays], dict[str, Any]],
    layout: Callable[[Any], Layout],
    refusal: Callable[[Any], str],
    state: Callable[[Source], Arrays] = network,
    settings: Callable[[Arrays], Settings] = nothing,
    **more: Any,
) -> Format:
    """A format of the authors' files, which are known by the names of their arrays alone.

    accepts, shows, settings: of the arrays that `state` finds. layout: of a method.
    """

    def accepted(source: Source) -> bool:
        return accepts(state(source))

    def shown(source: Source) -> dict[str, Any]:
        return shows(state(source))

    def read(source: Source) -> Settings:
        return settings(state(source))

    def named(method: Method, names: Any) -> Layout:
        return layout(method)

    return Format(name, part, accepted, read, refusal, named, state=state, shows=shown, **more)


def encoder_alone(whole: Layout, others: str) -> Layout:
    """The encoder out of the layout of a pretrained network, without a mask token.

    others: regular expression of what else the authors' file of the whole network holds.
    """
    own = re.compile(r"(params|extra)/encoder/(?!mask_token$)")
    rules = tuple(rule for rule in whole.names.rules if all(map(own.match, rule.ours)))
    tables = {name: table for name, table in whole.tables.items() if not re.search(others, name)}
    computed = {name: reason for name, reason in whole.names.computed.items() if name in tables}
    names = NameMap(rules, computed, {others: "no part of the encoder"})
    return dataclasses.replace(whole, names=names, tables=tables)


def has(arrays: Arrays, *names: str) -> bool:
    """Whether all of these are there."""
    return all(name in arrays for name in names)


def shape(arrays: Arrays, name: str, axes: int) -> tuple[int, ...]:
    """The shape of an array of so many axes; () where there is none."""
    found = np.shape(arrays[name]) if name in arrays else ()
    return found if len(found) == axes else ()


def count(arrays: Arrays, prefix: str) -> int:
    """How many layers are numbered behind `prefix`."""
    numbers = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in arrays)
    return max((int(found[1]) + 1 for found in numbers if found), default=0)


def vit_shows(arrays: Arrays, prefix: str = "") -> dict[str, Any]:
    """What the shapes of a vision transformer say of `model`; heads where there are relative tables."""
    found = patches_show(arrays, prefix)
    found |= {"model.depth": count(arrays, f"{prefix}blocks."), "model.cls_token": f"{prefix}cls_token" in arrays}
    for table in ("rel_pos_bias", "blocks.0.attn"):
        sides = shape(arrays, f"{prefix}{table}.relative_position_bias_table", 2)
        found |= {"model.heads": sides[1]} if sides else {}
    return found


def patches_show(arrays: Arrays, prefix: str = "") -> dict[str, Any]:
    """What the patch embedding says of `model`."""
    sides = shape(arrays, f"{prefix}patch_embed.proj.weight", 4)
    return {"model.width": sides[0], "model.channels": sides[1], "model.patch_size": sides[2:]} if sides else {}


def sizes_show(arrays: Arrays, widths: Mapping[str, str], depths: Mapping[str, str]) -> dict[str, Any]:
    """What further parts say: the outputs of linear layers, and how many layers are numbered, by keys of the config."""
    linear = {key: shape(arrays, name, 2) for name, key in widths.items()}
    layers = {key: count(arrays, prefix) for prefix, key in depths.items()}
    return {key: sides[0] for key, sides in linear.items() if sides} | {k: n for k, n in layers.items() if n}


def counters(method: Method, arrays: Arrays) -> Arrays:
    """The count of steps that every batch norm of theirs stores beside its running mean; of ours it is unknown."""
    means = [name for name in arrays if name.endswith(".running_mean")]
    return {name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64) for name in means}


def classifier_method(arrays: Arrays, head: str = "head") -> dict[str, Any]:
    """The section `method` of a fine-tuned network: how many classes, pooled how."""
    pooling = "mean" if "fc_norm.weight" in arrays else "cls"
    return {"classes": len(arrays[f"{head}.weight"]), "pooling": pooling}


def beit_model(arrays: Arrays) -> dict[str, Any]:
    """The switches of BEiT's vision transformer that a fine-tuned network shows; how its scales started does not."""
    tables = {"per_block": "blocks.0.attn.", "shared": "rel_pos_bias."}
    found = (kind for kind, name in tables.items() if f"{name}relative_position_bias_table" in arrays)
    return dict(
        relative_bias=next(found, "none"),
        qkv_bias="qv" if "blocks.0.attn.q_bias" in arrays else "none",
        layer_scale=0.1 if "blocks.0.gamma_1" in arrays else 0.0,
        positions="learned" if "pos_embed" in arrays else "none",
    )


def needs(config: Any, allowed: Allowed, where: str = "model") -> str:
    """Why a config is not one that the authors' code can build: the first key whose value is none of those allowed."""
    for key, values in allowed.items():
        value = getattr(config, key, None)
        if value not in values:
            return f"it needs {where}.{key} {' or '.join(map(repr, values))}, not {value!r}"
    return ""


def vit_needs(config: Any, allowed: Allowed) -> str:
    """The same of an encoder that must be a vision transformer."""
    return needs(config, allowed) if isinstance(config, VitConfig) else "its encoder is a vision transformer"
