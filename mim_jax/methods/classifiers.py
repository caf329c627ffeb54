"""What fine-tuning knows of each family of encoders: its classifier, its layers, its cost."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from mim_jax.errors import ConfigError, nearest
from mim_jax.methods.base import Features, ParamGroups, Tree
from mim_jax.methods.building import check_numbers, section
from mim_jax.methods.hierarchical import swin_finetune_groups
from mim_jax.methods.transformers import conv_vit_groups, vit_groups
from mim_jax.models.classifier import Classified, Classifier
from mim_jax.models.conv_classifier import ConvClassifier
from mim_jax.models.conv_config import ARCHITECTURES, ConvConfig
from mim_jax.models.conv_vit import conv_vit_flops, first_embed_flops
from mim_jax.models.conv_vit_config import ConvVitConfig
from mim_jax.models.convnets import convnet_flops, stem_flops
from mim_jax.models.swin import SwinClassifier, swin_flops
from mim_jax.models.swin_config import ARCHS, SwinConfig
from mim_jax.models.vit import vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn import flops
from mim_jax.nn.drop_path import drop_path_noise

Transformer = VitConfig | ConvVitConfig
EncoderConfig = Transformer | SwinConfig | ConvConfig
NAMES = {VitConfig: "vit", ConvVitConfig: "conv_vit"}  # of those that have no key `arch` themselves
KINDS: dict[str, Any] = {
    **{name: kind for kind, name in NAMES.items()},
    **dict.fromkeys(ARCHS, SwinConfig),
    **dict.fromkeys(ARCHITECTURES, ConvConfig),
}


def encoder_config(model: Mapping[str, Any]) -> EncoderConfig:
    """The `model` section of a config, checked; `model.arch` says the family, by default 'vit'.

    Raises:
        ConfigError: an unknown family or key, or an impossible value.
    """
    arch = model.get("arch", "vit")
    if arch not in KINDS:
        raise ConfigError(f"model.arch '{arch}' is not known{nearest(arch, KINDS)}")
    kind = KINDS[arch]
    values = {key: value for key, value in model.items() if key != "arch" or kind not in NAMES}
    return kind.from_section(section(kind, values, "model"))


def encoder_section(config: EncoderConfig) -> dict[str, Any]:
    """Inverse of `encoder_config`, without the precision, which a run sets for all."""
    values = {key: value for key, value in dataclasses.asdict(config).items() if key != "precision"}
    return {"arch": NAMES.get(type(config)), **values}


def classifier(config: EncoderConfig, classes: int, pooling: str, head_std: float, running: bool = False) -> nn.Module:
    """The module that is fine-tuned. head_std: 0 takes the family's own start of the head. running: batch norms use
    the stored statistics."""
    if isinstance(config, Transformer):
        return Classifier(config, classes, pooling, head_std or 2e-5)
    if isinstance(config, SwinConfig):
        return SwinClassifier(config, classes, head_std or 0.02)
    return ConvClassifier(config, classes, running, head_std or (0.02 if config.arch == "convnext" else 0.0))


def path_noise(config: EncoderConfig, key: PRNGKeyArray, batch: int) -> Float[Array, "B L ..."] | None:
    """The random numbers of drop path; None where its rate is 0."""
    if isinstance(config, ConvConfig):
        return jax.random.uniform(key, (batch, sum(config.depth))) if config.drop_path_rate > 0 else None
    blocks = config.blocks if isinstance(config, ConvVitConfig) else config.depth
    return drop_path_noise(key, batch, blocks, config.drop_path_rate)


def features(config: EncoderConfig, out: Classified, size: tuple[int, int]) -> Features:
    """What the classifier says about images of (height, width): `pooled` is what its head receives."""
    assert out.tokens is not None
    stride = config.patch_size if isinstance(config, Transformer) else config.stride
    down, across = (stride, stride) if isinstance(stride, int) else stride
    prefix = 1 if isinstance(config, Transformer) and config.cls_token else 0
    cls = out.tokens[:, 0] if prefix else None
    return Features(cls, out.tokens[:, prefix:], out.features, out.layers, (size[0] // down, size[1] // across))


def groups(config: EncoderConfig) -> ParamGroups:
    """Layers of the layer-wise decay, and what takes no weight decay (vectors never do): the codes of MAE, BEiT and
    ConvMAE leave out class token and positions, Swin's everything about positions."""
    if isinstance(config, Transformer):
        made = (conv_vit_groups if isinstance(config, ConvVitConfig) else vit_groups)(config.depth)
        return dataclasses.replace(made, no_decay=(r"encoder/cls_token$", r"encoder/(transformer/)?pos_embed$"))
    if isinstance(config, SwinConfig):
        return swin_finetune_groups(config.depths)
    depth, layers = config.layers()
    return ParamGroups(depth=depth, layers=tuple((f"encoder/{pattern}", number) for pattern, number in layers))


def groups_of(config: EncoderConfig, params: Tree, blocks: int | float) -> ParamGroups:
    """The groups of parameters (or shapes) `params` where only the last `blocks` blocks are trained, with the final
    norm and the head (MAE, figure 9); all for 0. Half a block is its perceptron.

    What every block uses (a shared table of positions) belongs to the first.
    """
    found, leaves = groups(config), jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    first = found.depth + 1 - math.ceil(blocks)

    def stands(name: str) -> bool:
        if not blocks or not name.startswith("encoder/") or name.startswith("encoder/norm/"):
            return False
        number = found.layer(name)
        half = blocks == 0.5 and not re.search(r"/(norm2|mlp|gamma_2)(/|$)", name)
        return number < first or number > found.depth or half

    exempt = tuple(p for p in found.no_decay if any(re.search(p, name) for name in names))
    frozen = tuple(f"^{re.escape(name)}$" for name in names if stands(name))
    return dataclasses.replace(found, no_decay=exempt, frozen=frozen)


def check(config: EncoderConfig, settings: Any) -> None:
    """Refuses impossible settings of fine-tuning (`methods.finetune.Finetune`) for an encoder; raises ConfigError."""
    shares = ("label_smoothing", "mixup_probability", "mixup_switch_probability")
    check_numbers(settings, whole=("repeated",), shares=shares)
    for key, least in (("classes", 2), ("mixup", 0), ("cutmix", 0), ("head_std", 0)):
        if getattr(settings, key) < least:
            raise ConfigError(f"method.{key} {getattr(settings, key)} must be at least {least}")
    if settings.pooling == "cls" and isinstance(config, Transformer) and not config.cls_token:
        raise ConfigError("method.pooling 'cls' needs an encoder with model.cls_token; use 'mean'")
    blocks, depth = settings.trainable_blocks, groups(config).depth
    if not 0 <= blocks <= depth or not (blocks % 1 == 0 or (blocks == 0.5 and not isinstance(config, ConvConfig))):
        raise ConfigError(
            f"method.trainable_blocks {blocks} must be a whole number from 0 (all) to {depth}, or 0.5 for the "
            "perceptron of a transformer's last block"
        )


def forward_and_backward_flops(config: EncoderConfig, classes: int) -> float:
    """Training FLOPs per image; what partial fine-tuning saves is not counted."""
    if isinstance(config, VitConfig):
        return 3 * (vit_flops(config) + flops.dense(1, config.width, classes))
    if isinstance(config, SwinConfig):
        return 3 * (swin_flops(config) + flops.dense(1, config.stage_width(len(config.depths) - 1), classes))
    if isinstance(config, ConvVitConfig):
        return 3 * (conv_vit_flops(config) + flops.dense(1, config.width, classes)) - first_embed_flops(config)
    return 3 * (convnet_flops(config) + flops.dense(1, config.outputs[-1], classes)) - stem_flops(config)
