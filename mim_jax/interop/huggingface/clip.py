"""transformers' CLIP: the vision tower as an encoder, alone, with its projection, or taken out of the whole CLIPModel.

The final norm here is on all tokens, as distillation takes them (CAE v2); transformers puts it on the class token
alone. The projection is kept (`model.projection`): it is what a teacher's tokens pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Format, Probe, tokens_of
from mim_jax.interop.huggingface import common
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.rules import LINEAR, PATCHES, dense, fused, norm, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.vit_case import patch_sizes
from mim_jax.methods.base import Method, Variables
from mim_jax.models.vit_config import VitConfig

TOWER, PROJECTED, WHOLE = "CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel"
PREFIX = "vision_model."  # transformers 5 leaves it out of the files of the bare tower, and loads both
IGNORED = {
    r"^(text_model\.|text_projection\.|logit_scale$)": "the text tower and what compares the two",
    r"position_ids$": "the numbers of the positions in order",
}
# transformers' defaults, which the config of a whole CLIPModel may leave unsaid.
DEFAULTS: dict[str, Any] = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    num_channels=3,
    image_size=224,
    patch_size=32,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
ACTIVATIONS = ("gelu", "quick_gelu")  # the same names on both sides


def rules(prefix: str) -> tuple[Rule, ...]:
    """Of the tower and its projection."""
    block, ours, attention = f"{prefix}encoder.layers.{{i}}", "encoder/blocks_{i}", "self_attn"
    return (
        Rule((f"{prefix}embeddings.class_embedding",), ("encoder/cls_token",), "d -> 1 1 d"),
        Rule((f"{prefix}embeddings.position_embedding.weight",), ("encoder/pos_embed",), "t d -> 1 t d"),
        Rule((f"{prefix}embeddings.patch_embedding.weight",), ("encoder/patch_embed/proj/kernel",), PATCHES),
        *norm(f"{prefix}pre_layrnorm", "encoder/pre_norm"),
        *norm(f"{block}.layer_norm1", f"{ours}/norm1"),
        *fused(tuple(f"{block}.{attention}.{n}_proj" for n in "qkv"), f"{ours}/attn/qkv"),
        *dense(f"{block}.{attention}.out_proj", f"{ours}/attn/proj"),
        *norm(f"{block}.layer_norm2", f"{ours}/norm2"),
        *dense(f"{block}.mlp.fc1", f"{ours}/mlp/fc1"),
        *dense(f"{block}.mlp.fc2", f"{ours}/mlp/fc2"),
        *norm(f"{prefix}post_layernorm", "encoder/norm"),
        Rule(("visual_projection.weight",), ("encoder/projection",), LINEAR),
    )


def layout(method: Method, names: Collection[str]) -> Layout:
    """`Format.layout`; what is written has the prefix, which all versions load."""
    prefix = common.prefix_of(names, PREFIX) if names else PREFIX
    return Layout(NameMap(under("params", rules(prefix)), ignored=IGNORED), patch_sizes(method.model))


def settings(source: Source) -> dict[str, dict[str, Any]]:
    """`Format.settings`."""
    path = source.folder / "config.json"
    own = source.config.get("vision_config") if common.architecture(source) == WHOLE else source.config
    if not isinstance(own, Mapping):
        raise DataError(f"{path} has no 'vision_config', which the model needs")
    c = DEFAULTS | dict(own)
    if c["hidden_act"] not in ACTIVATIONS:
        raise DataError(f"{path}: hidden_act '{c['hidden_act']}' is not supported, only {' and '.join(ACTIVATIONS)}")
    matrix = source.arrays.get("visual_projection.weight")
    model = dict(
        image_size=common.side(c["image_size"]),
        patch_size=common.side(c["patch_size"]),
        channels=c["num_channels"],
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        mlp_ratio=common.mlp_ratio(c["intermediate_size"], c["hidden_size"]),
        layer_norm_eps=c["layer_norm_eps"],
        positions="learned",
        position_offset=0.0,
        position_antialias=False,
        qkv_bias="full",
        layer_scale=0.0,
        relative_bias="none",
        cls_token=True,
        activation=c["hidden_act"],
        pre_norm=True,
        patch_bias=False,
        projection=0 if matrix is None else len(matrix),
    )
    return {"model": model, "data": common.pixels(source)}


def refusal(projected: bool) -> Callable[[Any], str]:
    """`Format.refusal`; projected: the class has the projection."""

    def reason(method: Any) -> str:
        c = method.model
        if not isinstance(c, VitConfig):
            return "the encoder is no plain vision transformer"
        if not c.pre_norm or c.patch_bias:
            return "it has a norm before the blocks (model.pre_norm) and no bias at the patches (model.patch_bias)"
        if not c.cls_token or c.positions not in ("learned", "learned_sincos"):
            return "it has a class token and learned positions"
        if c.layer_scale or c.relative_bias != "none" or c.qkv_bias != "full":
            return "it knows no layer scale or relative positions, and has biases for q, k and v"
        if projected and not c.projection:
            return "it has a projection"
        if not common.final_norm(method):
            return "it ends with a norm, which mean pooling replaces (method.pooling)"
        return ""

    return reason


def config(name: str) -> Callable[[Any], dict[str, Any]]:
    """`Format.config` of a class."""

    def write(method: Any) -> dict[str, Any]:
        c: VitConfig = method.model
        found = common.vit_config(c, "clip_vision_model", name)
        for key in ("attention_probs_dropout_prob", "hidden_dropout_prob"):
            del found[key]
        own = {"projection_dim": c.projection} if c.projection else {}
        return found | own | {"hidden_act": c.activation, "attention_dropout": 0.0}

    return write


def theirs(source: Source) -> Probe:
    """Blocks, all tokens through the final norm, and through the projection where there is one."""
    model = common.load(source, common.architecture(source))
    # By itself the tower is the model; in the other classes it is a part of it.
    tower, projection = getattr(model, "vision_model", model), getattr(model, "visual_projection", None)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        found = common.call(tower, images)
        with torch.no_grad():
            tokens = tower.post_layernorm(found.last_hidden_state)
            last = {} if projection is None else {"projected": projection(tokens).numpy()}
        return common.named_outputs(found) | {"tokens": tokens.numpy()} | last

    return run


def ours(method: Method, variables: Variables, images: np.ndarray) -> dict[str, Any]:
    """The same of ours."""
    found = tokens_of(method, variables, images)
    encoder = method.encoder_params(variables.params, variables.extra)
    return found | ({"projected": found["tokens"] @ encoder["projection"]} if method.model.projection else {})


def encoder(name: str, *accepted: str, projected: bool, **choice: Any) -> Format:
    """The format of a class."""
    switches = ("activation", "pre_norm", "patch_bias", *(("projection",) if projected else ()))
    fields = dict(refusal=refusal(projected)) | choice
    return Format(
        name,
        "encoder",
        accepts=common.is_class(name, *accepted),
        settings=settings,
        layout=layout,
        config=config(name),
        theirs=theirs,
        ours=ours,
        switches=switches,
        **fields,
    )


FORMATS = (
    encoder(PROJECTED, projected=True),
    encoder(TOWER, projected=False),
    encoder(WHOLE, projected=True, refusal=lambda method: "it has a text tower too"),
)
