"""What the methods whose encoder is a vision transformer share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.methods.base import Features, ParamGroups, Tree
from mim_jax.methods.building import section
from mim_jax.models.conv_vit import ConvVit
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig


def vit_config(model: Mapping[str, Any], family: Mapping[str, Any] | None = None) -> VitConfig:
    """The `model` section of a config, checked; `family` is what the method sets where the section says nothing.

    Raises:
        ConfigError: an unknown key or an impossible value.
    """
    return VitConfig.from_section({**(family or {}), **section(VitConfig, model, "model")})


def vit_groups(depth: int, encoder: str = "encoder") -> ParamGroups:
    """Groups of a vision transformer (BEiT, MAE): embeddings are layer 0, block i is layer i + 1, the rest last."""
    first = "cls_token|register_tokens|mask_token|pos_embed|patch_embed|pre_norm"
    layers = ((rf"{encoder}/(?:{first})", 0), (rf"{encoder}/blocks_(\d+)/", 1))
    return ParamGroups(depth=depth, layers=layers)


def conv_vit_groups(depth: int, encoder: str = "encoder") -> ParamGroups:
    """The same behind a stem of convolutions, all of which is layer 0 (fine-tuning codes of ConvMAE and DMJD)."""
    found = vit_groups(depth, f"{encoder}/transformer")
    return dataclasses.replace(found, layers=((rf"{encoder}/(?:embed|stage_)", 0), *found.layers))


def beit_groups(config: VitConfig) -> ParamGroups:
    """The same, with class token and learned positions free of weight decay (BEiT, EVA); the mask token takes it."""
    no_decay = (r"encoder/cls_token",) + ((r"encoder/pos_embed",) if config.positions == "learned" else ())
    return dataclasses.replace(vit_groups(config.depth), no_decay=no_decay)


def vit_features(
    encoder: Vit | ConvVit,
    params: Tree,
    images: Float[Array, "B H W C"],
    layers: bool | str = False,
    noise: Float[Array, "B L 2"] | None = None,
) -> Features:
    """What a vision transformer with parameters `params` says about whole images; noise: of drop path, in training."""
    config = encoder.config
    tokens, outputs = encoder.apply({"params": params}, images, noise=noise, layers=layers)
    tokens = tokens.astype(jnp.float32)
    patches = tokens[:, config.prefix :]
    grid = (images.shape[1] // config.patch_size[0], images.shape[2] // config.patch_size[1])
    return Features(tokens[:, 0] if config.cls_token else None, patches, patches.mean(1), tuple(outputs), grid)
