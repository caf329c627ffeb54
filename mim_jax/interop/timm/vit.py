"""timm's VisionTransformer (vit_*, deit*_*, eva_large_*), with class token or without; an encoder or a classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Arrays
from mim_jax.interop.huggingface.common import final_norm
from mim_jax.interop.rules import PATCHES, dense, norm, same, timm_block
from mim_jax.interop.source import Source
from mim_jax.interop.timm import common, modules, plain
from mim_jax.interop.timm.common import Family
from mim_jax.methods.base import Method
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.mlp import swiglu_width

ENCODER = (
    *same("cls_token", "encoder/cls_token"),
    *same("reg_token", "encoder/register_tokens"),
    *same("pos_embed", "encoder/pos_embed"),
    *dense("patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
    *norm("norm_pre", "encoder/pre_norm"),
    *timm_block("blocks.{i}", "encoder/blocks_{i}"),
    *same("blocks.{i}.ls1.gamma", "encoder/blocks_{i}/gamma_1"),
    *same("blocks.{i}.ls2.gamma", "encoder/blocks_{i}/gamma_2"),
    *norm("norm", "encoder/norm"),
)
# By width, depth and heads. The sizes stand in model_args too; the name says at a glance what a file holds.
NAMES = {
    (192, 12, 3): "vit_tiny_patch16_224",
    (384, 12, 6): "vit_small_patch16_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1280, 32, 16): "vit_huge_patch14_224",
}
USUAL = "vit_base_patch16_224"
CLIP = "vit_base_patch16_clip_224"  # for its epsilon alone
GATED = "vit_giant_patch14_dinov2"  # for its gated perceptrons
ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu"}  # class -> name, which is ours too


def facts(model: Any) -> dict[str, Any]:
    """`Family.facts`."""
    block, patches = model.blocks[0], model.patch_embed
    gated = type(block.mlp).__name__ == "GluMlp"
    if gated and (block.mlp.gate_last or type(block.mlp.act).__name__ != "SiLU"):
        raise DataError("has a gated perceptron of another kind than DINOv2's")
    if not gated and type(block.mlp.act).__name__ not in ACTIVATIONS:
        raise DataError(f"has the activation {type(block.mlp.act).__name__}, which ours does not have")
    if model.pool_include_prefix and model.global_pool != "token":
        raise DataError("takes the class token into the mean over the patches, which ours leaves out")
    norms = [type(layer).__name__ != "Identity" for layer in (model.norm_pre, model.norm, model.fc_norm)]
    return dict(
        img_size=patches.img_size,
        patch_size=patches.patch_size,
        in_chans=patches.proj.in_channels,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=common.ratio(block.mlp.fc1.out_features, model.embed_dim),
        act_layer="silu" if gated else ACTIVATIONS[type(block.mlp.act).__name__],
        qkv_bias=block.attn.qkv.bias is not None,
        init_values=getattr(block.ls1, "init_values", 0.0),
        class_token=model.has_class_token,
        reg_tokens=model.num_reg_tokens,
        pos_embed="none" if model.pos_embed is None else "learn",
        no_embed_class=model.no_embed_class,
        pre_norm=norms[0],
        final_norm=norms[1] or norms[2],
        fc_norm=norms[2],
        global_pool=model.global_pool,
    )


FAMILY = Family(
    name="VisionTransformer",
    models=r"(vit|deit|deit3|flexivit|eva_large)_",
    mark=r"blocks\.0\.(attn\.qkv\.bias|ls1\.gamma)",
    head="head",
    stem="patch_embed.proj",
    layers=frozenset(
        {
            *("PatchEmbed", "Conv2d", "Block", "Attention", "Linear", "LayerNorm", "LayerScale"),
            *("Mlp", *ACTIVATIONS, "GluMlp", "SiLU"),
        }
    ),
    arguments=(
        *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "act_layer"),
        *("qkv_bias", "init_values", "class_token", "reg_tokens", "pos_embed", "no_embed_class"),
        *("pre_norm", "final_norm", "fc_norm", "global_pool"),
    ),
    exported={**dict.fromkeys((USUAL, GATED, *NAMES.values()), 1e-6), CLIP: 1e-5},
    facts=facts,
    channels="tokens",
    blocks=lambda model: [f"blocks.{i}" for i in range(len(model.blocks))],
)


def settings(classifier: bool) -> Callable[[Source], dict[str, dict[str, Any]]]:
    """`Format.settings`."""

    def read(source: Source) -> dict[str, dict[str, Any]]:
        found = modules.facts(source, FAMILY)
        kind = dict(
            cls_token=found["class_token"],
            qkv_bias="full" if found["qkv_bias"] else "none",
            registers=found["reg_tokens"] or 0,
            pre_norm=found["pre_norm"],
            patch_bias=not found["pre_norm"],
        )
        if found["act_layer"] == "silu":
            kind["mlp"], found["mlp_ratio"] = "swiglu", gated_ratio(source, found)
        else:
            kind["activation"] = found["act_layer"]
        table = state(source).get("pos_embed") if found["pos_embed"] == "learn" else None
        model = plain.model_settings(found, table, classifier, **kind)
        method = plain.method_settings(source, found, classifier)
        return {"model": model, "method": method, "data": common.pixels(found, found["in_chans"])}

    return read


def gated_ratio(source: Source, found: dict[str, Any]) -> float:
    """Our ratio for their gated perceptron: theirs counts both halves, ours the perceptron with as many parameters."""
    units = int(found["embed_dim"] * found["mlp_ratio"]) // 2
    if units % 8:
        raise DataError(f"{source.path}: gated perceptrons of {units} units are not supported, only of multiples of 8")
    return common.ratio(3 * units // 2, found["embed_dim"])


def state(source: Source) -> Arrays:
    """`Format.state`: with a position for the class token and none for registers, as ours have them.

    To deit3's class token no position is added, which is one of zeros.

    Raises:
        DataError: registers with positions.
    """
    arrays, found = source.state(), modules.facts(source, FAMILY)
    table, registers = arrays.get("pos_embed"), found["reg_tokens"] or 0
    if table is None or table.ndim != 3:
        return arrays
    cls = 1 if found["class_token"] else 0
    if found["no_embed_class"]:
        arrays["pos_embed"] = np.concatenate([np.zeros_like(table[:, :cls]), table], axis=1)
    elif registers:
        if table[:, cls : cls + registers].any():
            raise DataError(f"{source.path}: 'pos_embed' has positions for its {registers} registers; ours have none")
        arrays["pos_embed"] = np.delete(table, range(cls, cls + registers), axis=1)
    return arrays


def buffers(method: Method, arrays: Arrays) -> Arrays:
    """`Format.buffers`: positions with rows of zeros for registers."""
    c: VitConfig = method.model
    if not c.registers or "pos_embed" not in arrays:
        return {}
    return {"pos_embed": np.insert(arrays["pos_embed"], [c.prefix] * c.registers, 0.0, axis=1)}


def refusal(method: Method) -> str:
    """`Format.refusal`."""
    c = method.model
    if not isinstance(c, VitConfig):
        return "the encoder is no vision transformer"
    if c.relative_bias != "none" or c.qkv_bias == "qv":
        return "it knows no relative positions or missing key bias"
    if c.patch_bias == c.pre_norm:
        return "its patch embedding has a bias unless there is a norm before the blocks (model.patch_bias, pre_norm)"
    if c.mlp == "swiglu_exact":
        return "its gated perceptrons have other widths (model.mlp 'swiglu')"
    if c.layer_norm_eps not in FAMILY.exported.values():
        return f"its layer norms have an epsilon of 1e-06 or 1e-05, not {c.layer_norm_eps}"
    if c.mlp == "swiglu" and c.layer_norm_eps != FAMILY.exported[GATED]:
        return f"with gated perceptrons its layer norms have an epsilon of 1e-06, not {c.layer_norm_eps}"
    return ""


def config(classifier: bool) -> Callable[[Method], dict[str, Any]]:
    """`Format.config`."""

    def write(method: Any) -> dict[str, Any]:
        c: VitConfig = method.model
        mean = classifier and method.pooling == "mean"
        name = CLIP if c.layer_norm_eps == 1e-5 else NAMES.get((c.width, c.depth, c.heads), USUAL)
        arguments = plain.sizes(c) | dict(
            num_classes=method.classes if classifier else 0,
            act_layer=c.activation,
            qkv_bias=c.qkv_bias == "full",
            class_token=c.cls_token,
            reg_tokens=c.registers,
            pos_embed="none" if c.positions == "none" else "learn",
            no_embed_class=False,
            pre_norm=c.pre_norm,
            final_norm=classifier or final_norm(method),
            fc_norm=mean,
            global_pool="avg" if mean or not c.cls_token else "token",
        )
        if c.mlp == "swiglu":
            halves = 2 * swiglu_width(int(c.width * c.mlp_ratio))
            name, arguments["mlp_ratio"] = GATED, common.ratio(halves, c.width)
            arguments["act_layer"] = "silu"
        return common.written_config(FAMILY, name, arguments, c.width, fixed=True)

    return write


FORMATS = modules.both_parts(
    FAMILY,
    settings=settings,
    refusal=refusal,
    layout=partial(plain.layout, ENCODER),
    config=config,
    encoder=dict(ours=plain.tokens_of),
    state=state,
    buffers=buffers,
    switches=("registers", "mlp", "activation", "pre_norm", "patch_bias"),
)
