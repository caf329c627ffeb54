"""timm's Beit (beit_*, beitv2_*): relative positions, layer scale, no bias for keys; an encoder or a classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Arrays
from mim_jax.interop.huggingface.common import final_norm
from mim_jax.interop.rules import PATCHES, beit_block, dense, norm, same
from mim_jax.interop.source import Source
from mim_jax.interop.timm import common, modules, plain
from mim_jax.interop.timm.common import Family
from mim_jax.methods.base import Method
from mim_jax.models.vit_config import VitConfig

ENCODER = (
    *same("cls_token", "encoder/cls_token"),
    *same("pos_embed", "encoder/pos_embed"),
    *same("rel_pos_bias.relative_position_bias_table", "encoder/relative_bias/table"),
    *dense("patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
    *beit_block("blocks.{i}", "encoder/blocks_{i}"),
    *norm("norm", "encoder/norm"),
)
USUAL, LARGE = "beit_base_patch16_224", "beit_large_patch16_224"


def facts(model: Any) -> dict[str, Any]:
    """`Family.facts`."""
    block, patches = model.blocks[0], model.patch_embed
    return dict(
        img_size=patches.img_size,
        patch_size=patches.patch_size,
        in_chans=patches.proj.in_channels,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=common.ratio(block.mlp.fc1.out_features, model.embed_dim),
        qkv_bias=block.attn.q_bias is not None,
        init_values=block.init_values or 0.0,
        use_abs_pos_emb=model.pos_embed is not None,
        use_rel_pos_bias=block.attn.relative_position_bias_table is not None,
        use_shared_rel_pos_bias=model.rel_pos_bias is not None,
        use_fc_norm=type(model.fc_norm).__name__ != "Identity",
        global_pool=model.global_pool,
    )


FAMILY = Family(
    name="Beit",
    models=r"beit(v2)?_",
    mark=r"blocks\.0\.attn\.q_bias",
    head="head",
    stem="patch_embed.proj",
    layers=frozenset(
        {"PatchEmbed", "Conv2d", "Block", "Attention", "RelativePositionBias", "Linear", "LayerNorm", "Mlp", "GELU"}
    ),
    arguments=(
        *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias"),
        *(
            "init_values",
            "use_abs_pos_emb",
            "use_rel_pos_bias",
            "use_shared_rel_pos_bias",
            "use_fc_norm",
            "global_pool",
        ),
    ),
    exported={USUAL: 1e-6, LARGE: 1e-6},
    facts=facts,
    channels="tokens",
    blocks=lambda model: [f"blocks.{i}" for i in range(len(model.blocks))],
)


def settings(classifier: bool) -> Callable[[Source], dict[str, dict[str, Any]]]:
    """`Format.settings`."""

    def read(source: Source) -> dict[str, dict[str, Any]]:
        found = modules.facts(source, FAMILY)
        shared, per_block = found["use_shared_rel_pos_bias"], found["use_rel_pos_bias"]
        if shared and per_block:
            raise DataError(f"{source.path} has relative positions in every block and shared ones; ours have one kind")
        kind = dict(
            cls_token=True,
            qkv_bias="qv" if found["qkv_bias"] else "none",
            relative_bias="shared" if shared else "per_block" if per_block else "none",
            init="beit",
        )
        table = source.state().get("pos_embed") if found["use_abs_pos_emb"] else None
        model = plain.model_settings(found, table, classifier, **kind)
        norms = {"fc_norm": found["use_fc_norm"], "final_norm": True}
        method = plain.method_settings(source, {**found, **norms}, classifier)
        return {"model": model, "method": method, "data": common.pixels(found, found["in_chans"])}

    return read


def refusal(method: Method) -> str:
    """`Format.refusal`."""
    c = method.model
    if not isinstance(c, VitConfig):
        return "the encoder is no vision transformer"
    if not c.cls_token:
        return "it has a class token"
    if c.qkv_bias == "full" or (c.qkv_bias == "none" and c.relative_bias == "none"):
        return "its keys alone have no bias, or it has relative positions"
    if c.layer_norm_eps != FAMILY.exported[USUAL]:
        return f"its layer norms have an epsilon of 1e-06, not {c.layer_norm_eps}"
    return ""


def head_norm(method: Method, arrays: Arrays) -> Arrays:
    """`Format.buffers` of an encoder: where it has no norm of its own, timm has one after pooling, which changes no
    more than a norm must."""
    width = method.model.width
    idle = {"fc_norm.weight": np.ones(width, np.float32), "fc_norm.bias": np.zeros(width, np.float32)}
    return {} if final_norm(method) else idle


def config(classifier: bool) -> Callable[[Method], dict[str, Any]]:
    """`Format.config`."""

    def write(method: Any) -> dict[str, Any]:
        c: VitConfig = method.model
        mean = method.pooling == "mean" if classifier else not final_norm(method)
        arguments = plain.sizes(c) | dict(
            num_classes=method.classes if classifier else 0,
            qkv_bias=c.qkv_bias == "qv",
            use_abs_pos_emb=c.positions != "none",
            use_rel_pos_bias=c.relative_bias == "per_block",
            use_shared_rel_pos_bias=c.relative_bias == "shared",
            use_fc_norm=mean,
            global_pool="avg" if mean else "token",
        )
        return common.written_config(FAMILY, LARGE if c.depth == 24 else USUAL, arguments, c.width, fixed=True)

    return write


FORMATS = modules.both_parts(
    FAMILY,
    settings=settings,
    refusal=refusal,
    layout=partial(plain.layout, ENCODER),
    config=config,
    encoder=dict(ours=plain.tokens_of, buffers=head_norm),
)
