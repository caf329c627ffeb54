"""timm's Eva (eva02_*, eva_giant_*): rotary positions, gated perceptrons, norms inside; an encoder or a classifier."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Probe
from mim_jax.interop.huggingface.common import final_norm
from mim_jax.interop.name_map import Rule
from mim_jax.interop.rules import PATCHES, dense, eva_block, norm, same
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.timm import common, modules, plain
from mim_jax.interop.timm.common import Family
from mim_jax.methods.base import Method, Variables
from mim_jax.models.vit_config import VitConfig

# By width, depth and heads; what a name says of sizes and switches stands in model_args too.
NAMES = {
    (192, 12, 3): "eva02_tiny_patch14_224",
    (384, 12, 6): "eva02_small_patch14_224",
    (1024, 24, 16): "eva02_large_patch14_224",
    (1408, 40, 16): "eva_giant_patch14_224",
}
USUAL = "eva02_base_patch14_224"
PERCEPTRONS = {"Mlp": "mlp", "GluMlp": "swiglu_exact", "SwiGLU": "swiglu_exact"}  # class -> model.mlp


def facts(model: Any) -> dict[str, Any]:
    """`Family.facts`."""
    block, patches, kind = model.blocks[0], model.patch_embed, type(model.blocks[0].mlp).__name__
    norms = [type(layer).__name__ != "Identity" for layer in (model.norm, model.fc_norm)]
    attention = block.attn
    if kind == "GluMlp" and block.mlp.gate_last:
        raise DataError("has a gated perceptron whose second half is the gate; ours has the first one")
    if model.reg_token is not None or model.no_embed_class:
        raise DataError("has registers, or a class token without a position, which EVA-02's encoders do not have")
    if attention.rotate_half or attention.gate is not None:
        raise DataError("turns halves of heads or has gates in attention, which EVA-02's encoders do not")
    return dict(
        img_size=patches.img_size,
        patch_size=patches.patch_size,
        in_chans=patches.proj.in_channels,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=attention.num_heads,
        mlp_ratio=common.ratio(block.mlp.fc2.in_features, model.embed_dim),
        qkv_bias=attention.q_bias is not None or getattr(attention.q_proj, "bias", None) is not None,
        init_values=block.init_values or 0.0,
        class_token=model.cls_token is not None,
        swiglu_mlp=PERCEPTRONS[kind] == "swiglu_exact",
        scale_mlp=type(block.mlp.norm).__name__ != "Identity",
        scale_attn_inner=type(attention.norm).__name__ != "Identity",
        use_abs_pos_emb=model.pos_embed is not None,
        use_rot_pos_emb=model.rope is not None,
        ref_feat_shape=reference(model),
        use_post_transformer_norm=norms[0],
        use_fc_norm=norms[1],
        global_pool=model.global_pool,
    )


def reference(model: Any) -> int:
    """Side of the grid in whose units rotary positions count, 0 without them.

    Raises:
        DataError: rotary positions of another kind than EVA-02's.
    """
    rope = model.rope
    if rope is None:
        return 0
    sides = tuple(rope.ref_feat_shape or model.patch_embed.grid_size)
    usual = (rope.temperature, rope.grid_offset, rope.grid_indexing, rope.grid_type) == (10000.0, 0.0, "ij", "index")
    if len(set(sides)) != 1 or not usual:
        raise DataError("has rotary positions of another kind than EVA-02's")
    return int(sides[0])


FAMILY = Family(
    name="Eva",
    models=r"eva02_|eva_giant_",
    mark=r"blocks\.0\.(mlp\.(fc1_g|norm)|attn\.(q_proj|norm))\.weight",
    head="head",
    stem="patch_embed.proj",
    layers=frozenset(
        {
            *("PatchEmbed", "Conv2d", "EvaBlock", "EvaAttention", "Linear", "LayerNorm"),
            *(*PERCEPTRONS, "GELU", "SiLU", "RotaryEmbeddingCat"),
        }
    ),
    arguments=(
        *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias"),
        *("init_values", "class_token", "swiglu_mlp", "scale_mlp", "scale_attn_inner", "use_abs_pos_emb"),
        *("use_rot_pos_emb", "ref_feat_shape", "use_post_transformer_norm", "use_fc_norm", "global_pool"),
    ),
    exported=dict.fromkeys((USUAL, *NAMES.values()), 1e-6),
    facts=facts,
    channels="tokens",
    blocks=lambda model: [f"blocks.{i}" for i in range(len(model.blocks))],
)


def settings(classifier: bool) -> Callable[[Source], dict[str, dict[str, Any]]]:
    """`Format.settings`."""

    def read(source: Source) -> dict[str, dict[str, Any]]:
        found = modules.facts(source, FAMILY)
        inside, outside = found["use_post_transformer_norm"], found["use_fc_norm"]
        found |= {"fc_norm": outside, "final_norm": inside or outside}
        kind = dict(
            cls_token=found["class_token"],
            qkv_bias="qv" if found["qkv_bias"] else "none",
            mlp="swiglu_exact" if found["swiglu_mlp"] else "mlp",
            mlp_norm=found["scale_mlp"],
            attention_norm=found["scale_attn_inner"],
            rope=found["ref_feat_shape"] if found["use_rot_pos_emb"] else 0,
            init="eva02" if found["swiglu_mlp"] else "beit",
        )
        table = source.state().get("pos_embed") if found["use_abs_pos_emb"] else None
        model = plain.model_settings(found, table, classifier, **kind)
        method = plain.method_settings(source, found, classifier)
        return {"model": model, "method": method, "data": common.pixels(found, found["in_chans"])}

    return read


def refusal(method: Method) -> str:
    """`Format.refusal`."""
    c = method.model
    if not isinstance(c, VitConfig):
        return "the encoder is no vision transformer"
    if c.relative_bias != "none" or c.qkv_bias == "full":
        return "it knows no relative positions, and its keys have no bias"
    if c.mlp == "swiglu" or c.activation != "gelu":
        return "its gated perceptrons have other widths (model.mlp 'swiglu_exact'), and the others have a GELU"
    if c.layer_norm_eps != FAMILY.exported[USUAL]:
        return f"its layer norms have an epsilon of 1e-06, not {c.layer_norm_eps}"
    return ""


def layout(classifier: bool) -> Callable[[Method, Collection[str]], Layout]:
    """`Format.layout`: with layers apart where the file has them so; written as timm's models of that kind have them.

    An encoder that timm ends without its final norm, because a classifier would follow, keeps it as the norm of that
    classifier; so do the published weights of pretraining.
    """

    def made(method: Any, names: Collection[str]) -> Layout:
        c: VitConfig = method.model
        apart = "blocks.0.attn.q_proj.weight" in names if names else c.mlp_norm
        gates = "blocks.0.mlp.fc1_g.weight" in names if names else c.mlp_norm and c.mlp == "swiglu_exact"
        block = eva_block(
            "blocks.{i}",
            "encoder/blocks_{i}",
            apart,
            gates=("mlp.fc1_g", "mlp.fc1_x") if gates else ("mlp.fc1",),
            out="mlp.fc2",
            norms=("attn.norm", "mlp.norm"),
            biases=("attn.q_proj.bias", "attn.v_proj.bias") if apart else ("attn.q_bias", "attn.v_bias"),
        )
        moved = not classifier and norm_moved(names) and final_norm(method)
        rules: tuple[Rule, ...] = (
            *same("cls_token", "encoder/cls_token"),
            *same("pos_embed", "encoder/pos_embed"),
            *dense("patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
            *block,
            *norm("fc_norm" if moved else "norm", "encoder/norm"),
        )
        return plain.layout(rules, classifier)(method, names)

    return made


def norm_moved(names: Collection[str]) -> bool:
    """Whether the final norm stands where that of a classifier would, without one."""
    return "fc_norm.weight" in names and not {"norm.weight", "head.weight"} & set(names)


def theirs(source: Source) -> Probe:
    """`Format.theirs`, with the norm that stands elsewhere where there is one."""
    run, arrays = modules.probe(FAMILY)(source), source.state()
    if not norm_moved(arrays):
        return run

    def normed(images: np.ndarray) -> dict[str, np.ndarray]:
        found = dict(run(images))
        x = found.pop("tokens").astype(np.float64)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + FAMILY.exported[USUAL])
        return {**found, "normed tokens": x * arrays["fc_norm.weight"] + arrays["fc_norm.bias"]}

    return normed


def tokens_of(method: Method, variables: Variables, images: Any) -> dict[str, Any]:
    """`Format.ours` of an encoder."""
    found = plain.tokens_of(method, variables, images)
    return {**found, "normed tokens": found["tokens"]} if final_norm(method) else found


def config(classifier: bool) -> Callable[[Method], dict[str, Any]]:
    """`Format.config`."""

    def write(method: Any) -> dict[str, Any]:
        c: VitConfig = method.model
        mean = classifier and method.pooling == "mean"
        arguments = plain.sizes(c) | dict(
            num_classes=method.classes if classifier else 0,
            init_values=c.layer_scale or None,
            qkv_bias=c.qkv_bias == "qv",
            qkv_fused=not c.mlp_norm,
            class_token=c.cls_token,
            swiglu_mlp=c.mlp == "swiglu_exact",
            scale_mlp=c.mlp_norm,
            scale_attn_inner=c.attention_norm,
            use_abs_pos_emb=c.positions != "none",
            use_rot_pos_emb=c.rope > 0,
            ref_feat_shape=c.rope or None,
            use_post_transformer_norm=final_norm(method),
            use_fc_norm=mean,
            global_pool="avg" if mean or not c.cls_token else "token",
        )
        name = NAMES.get((c.width, c.depth, c.heads), USUAL)
        return common.written_config(FAMILY, name, arguments, c.width, fixed=True)

    return write


FORMATS = modules.both_parts(
    FAMILY,
    settings=settings,
    refusal=refusal,
    layout=layout,
    config=config,
    encoder=dict(theirs=theirs, ours=tokens_of),
    switches=("mlp", "rope", "mlp_norm", "attention_norm"),
)
