"""transformers' plain vision transformers: ViTModel, ViTMSNModel, IJepaModel, and ViT with a classifier."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from mim_jax.interop.format import Format
from mim_jax.interop.huggingface import common
from mim_jax.interop.huggingface.vit_mae import NEW_BLOCK, OLD_BLOCK, block
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.positions import FIXED, fixed_table, kind_of_table
from mim_jax.interop.rules import PATCHES, dense, norm, same, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.vit_case import patch_sizes
from mim_jax.methods.base import Method
from mim_jax.models.vit_config import VitConfig

POOLER = {
    r"^pooler\.": "a layer after the encoder that pretraining does not have",
    r"mask_token$": "no part of the encoder",
}


def arrays(spelling: str, prefix: str = "") -> tuple:
    """Rules of the encoder, in one of the spellings of transformers 4 ('old', which 5 writes too) and 5 ('new')."""
    where, names = (f"{prefix}encoder.layer", OLD_BLOCK) if spelling == "old" else (f"{prefix}layers", NEW_BLOCK)
    return (
        *same(f"{prefix}embeddings.cls_token", "encoder/cls_token"),
        *same(f"{prefix}embeddings.position_embeddings", "encoder/pos_embed"),
        *dense(f"{prefix}embeddings.patch_embeddings.projection", "encoder/patch_embed/proj", PATCHES),
        *block(f"{where}.{{i}}", "encoder/blocks_{i}", names),
        *norm(f"{prefix}layernorm", "encoder/norm"),
    )


def layout(prefix: str = "", rest: tuple = (), classifier: bool = False) -> Any:
    """`Format.layout`. rest: rules of what follows the encoder."""

    def made(method: Method, names: Collection[str]) -> Layout:
        spelling = "new" if any(name.startswith(f"{prefix}layers.") for name in names) else "old"
        config: VitConfig = method.model
        table = fixed_table(config, classifier)
        tables = {} if table is None else {f"{prefix}embeddings.position_embeddings": table}
        rules = under("params", (*arrays(spelling, prefix), *rest))
        return Layout(NameMap(rules, dict.fromkeys(tables, FIXED), POOLER), patch_sizes(config), tables)

    return made


def settings(cls_token: bool = True, pooling: str = "") -> Any:
    """`Format.settings` of a plain vision transformer; `pooling`: of a classifier."""

    def read(source: Source) -> dict[str, Any]:
        common.gelu_alone(source)
        common.need(source, "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        c = source.config
        model = dict(
            image_size=common.side(c.get("image_size", 224)),
            patch_size=common.side(c.get("patch_size", 16)),
            channels=c.get("num_channels", 3),
            width=c["hidden_size"],
            depth=c["num_hidden_layers"],
            heads=c["num_attention_heads"],
            mlp_ratio=c["intermediate_size"] / c["hidden_size"],
            layer_norm_eps=c.get("layer_norm_eps", 1e-12),
            qkv_bias="full" if c.get("qkv_bias", True) else "none",
            cls_token=cls_token,
        )
        tables = [array for name, array in source.arrays.items() if name.endswith("embeddings.position_embeddings")]
        learned = pooling or not tables  # fine-tuning trains them
        model["positions"] = "learned" if learned else kind_of_table(tables[0], VitConfig.from_section(model))
        method = {"pooling": pooling, "classes": common.classes(source)} if pooling else {}
        return {"model": model, "method": method, "data": common.pixels(source)}

    return read


def refusal(cls_token: bool = True) -> Any:
    """`Format.refusal`: what the class cannot hold."""

    def reason(method: Method) -> str:
        config = method.model
        if not isinstance(config, VitConfig):
            return "the encoder is no plain vision transformer"
        if config.cls_token != cls_token:
            return "it has a class token" if cls_token else "it has no class token"
        if config.layer_scale or config.relative_bias != "none" or config.qkv_bias == "qv":
            return "it knows no layer scale, relative positions or missing key bias"
        if config.positions == "none":
            return "it needs positions"
        return ""

    return reason


def config(model_type: str, name: str) -> Any:
    """`Format.config`."""

    def write(method: Method) -> dict[str, Any]:
        c: VitConfig = method.model
        found = {
            "architectures": [name],
            "model_type": model_type,
            "hidden_size": c.width,
            "num_hidden_layers": c.depth,
            "num_attention_heads": c.heads,
            "intermediate_size": int(c.width * c.mlp_ratio),
            "hidden_act": "gelu",
            "layer_norm_eps": c.layer_norm_eps,
            "image_size": common.square(c.image_size, "model.image_size"),
            "patch_size": common.square(c.patch_size, "model.patch_size"),
            "num_channels": c.channels,
            "qkv_bias": c.qkv_bias == "full",
            "attention_probs_dropout_prob": 0.0,
            "hidden_dropout_prob": 0.0,
        }
        return found | common.labels(method)

    return write


def pooler(method: Method, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pooler of ViTModel, which no pretraining here has, as the identity before its tanh: so their loader finds
    all that it wants, and says no word of weights that it had to invent."""
    width = method.model.width
    return {"pooler.dense.weight": np.eye(width, dtype=np.float32), "pooler.dense.bias": np.zeros(width, np.float32)}


FORMATS = (
    Format(
        "ViTModel",
        "encoder",
        accepts=common.is_class("ViTModel"),
        settings=settings(),
        refusal=refusal(),
        layout=layout(),
        config=config("vit", "ViTModel"),
        theirs=common.probe("ViTModel"),
        buffers=pooler,
    ),
    Format(
        "ViTMSNModel",
        "encoder",
        accepts=common.is_class("ViTMSNModel"),
        settings=settings(),
        refusal=refusal(),
        layout=layout(),
        config=config("vit_msn", "ViTMSNModel"),
        theirs=common.probe("ViTMSNModel"),
    ),
    Format(
        "IJepaModel",
        "encoder",
        accepts=common.is_class("IJepaModel"),
        settings=settings(cls_token=False),
        refusal=refusal(cls_token=False),
        layout=layout(),
        config=config("ijepa", "IJepaModel"),
        theirs=common.probe("IJepaModel"),
    ),
    Format(
        "ViTForImageClassification",
        "classifier",
        accepts=common.is_class("ViTForImageClassification"),
        settings=settings(pooling="cls"),
        refusal=lambda method: refusal()(method) or ("it pools by the class token" if method.pooling != "cls" else ""),
        layout=layout("vit.", dense("classifier", "head"), classifier=True),
        config=config("vit", "ViTForImageClassification"),
        theirs=common.probe("ViTForImageClassification"),
    ),
)
