"""transformers' plain vision transformers: ViT, ViTMSN, IJepa and ViTMAE, alone and with a classifier."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Format, Probe
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

IGNORED = {
    r"(^|\.)pooler\.": "a layer after the encoder that pretraining does not have",
    r"mask_token$": "no part of the encoder",
    **common.HEADS,
}


def arrays(names: Collection[str], prefix: str = "") -> tuple:
    """Rules of the encoder, in the names of transformers 4, which 5 writes too, or of the modules of 5.

    transformers 5 writes the blocks of ViTMSNForImageClassification, alone of all, without their prefix.
    """
    if any(name.startswith(f"{prefix}layers.") for name in names):
        where, block_names = f"{prefix}layers", NEW_BLOCK
    else:
        bare = any(name.startswith("encoder.layer.") for name in names)
        where, block_names = f"{'' if bare else prefix}encoder.layer", OLD_BLOCK
    return (
        *same(f"{prefix}embeddings.cls_token", "encoder/cls_token"),
        *same(f"{prefix}embeddings.position_embeddings", "encoder/pos_embed"),
        *dense(f"{prefix}embeddings.patch_embeddings.projection", "encoder/patch_embed/proj", PATCHES),
        *block(f"{where}.{{i}}", "encoder/blocks_{i}", block_names),
        *norm(f"{prefix}layernorm", "encoder/norm"),
    )


def encoder_layout(prefix: str) -> Any:
    """`Format.layout` of an encoder; `prefix`: of its arrays inside a class with a head."""

    def made(method: Method, names: Collection[str]) -> Layout:
        return whole(method, names, common.prefix_of(names, prefix), (), False, IGNORED)

    return made


def layout(prefix: str, rest: tuple, classifier: bool = False) -> Any:
    """`Format.layout` of an encoder and of `rest`, the rules of what follows it."""
    return lambda method, names: whole(method, names, prefix, rest, classifier, {})


def whole(method: Any, names: Collection[str], prefix: str, rest: tuple, classifier: bool, ignored: dict) -> Layout:
    """Names, sizes and the table of positions."""
    config: VitConfig = method.model
    table = fixed_table(config, classifier)
    tables = {} if table is None else {f"{prefix}embeddings.position_embeddings": table}
    rules = under("params", (*arrays(names, prefix), *rest))
    return Layout(NameMap(rules, dict.fromkeys(tables, FIXED), ignored), patch_sizes(config), tables)


def settings(cls_token: bool = True, pooling: str = "") -> Any:
    """`Format.settings` of a plain vision transformer; `pooling`: of a classifier."""

    def read(source: Source) -> dict[str, dict[str, Any]]:
        model = common.vit_sizes(source) | dict(
            qkv_bias="full" if source.config.get("qkv_bias", True) else "none",
            layer_scale=0.0,
            relative_bias="none",
            cls_token=cls_token,
        )
        model["positions"] = "learned" if pooling else positions(source, model)  # fine-tuning trains them
        method = {"pooling": pooling, "classes": common.classes(source)} if pooling else {}
        return {"model": model, "method": method, "data": common.pixels(source)}

    return read


def positions(source: Source, model: dict[str, Any]) -> str:
    """`model.positions` of the source's table for an encoder of the other settings `model`; 'none' without a table."""
    tables = [array for name, array in source.arrays.items() if name.endswith("embeddings.position_embeddings")]
    return kind_of_table(tables[0], VitConfig.from_section(model)) if tables else "none"


def refusal(cls_token: bool = True) -> Callable[[Any], str]:
    """`Format.refusal`: what the class cannot hold."""

    def reason(method: Any) -> str:
        config = method.model
        if not isinstance(config, VitConfig):
            return "the encoder is no plain vision transformer"
        if config.cls_token != cls_token:
            return "it has a class token" if cls_token else "it has no class token"
        if config.layer_scale or config.relative_bias != "none" or config.qkv_bias == "qv":
            return "it knows no layer scale, relative positions or missing key bias"
        if config.positions == "none":
            return "it needs positions"
        if not common.final_norm(method):
            return "it ends with a norm, and this encoder with none"
        return ""

    return reason


def config(model_type: str, name: str) -> Any:
    """`Format.config`."""

    def write(method: Any) -> dict[str, Any]:
        c: VitConfig = method.model
        own = {"qkv_bias": c.qkv_bias == "full"}
        return common.vit_config(c, model_type, name) | own | common.labels(method)

    return write


def pooler(method: Method, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pooler of ViTModel, which no pretraining here has, as the identity before its tanh: so their loader finds
    all that it wants, and says no word of weights that it had to invent."""
    width = method.model.width
    return {"pooler.dense.weight": np.eye(width, dtype=np.float32), "pooler.dense.bias": np.zeros(width, np.float32)}


def unmasked(source: Source) -> Probe:
    """ViTMAE's encoder on all patches in their order, which it otherwise shuffles, and of which it hides most."""
    model = common.load(source, common.architecture(source) or "ViTMAEModel").base_model
    model.config.mask_ratio = 0.0

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        noise = torch.arange(model.embeddings.patch_embeddings.num_patches, dtype=torch.float32)
        return common.named_outputs(common.call(model, images, noise=noise.expand(len(images), -1)))

    return run


def no_classifier(source: Source) -> dict[str, Any]:
    """`Format.settings` of a classifier that ours cannot be."""
    raise DataError(
        f"{source.path}: {common.architecture(source)} averages the tokens after the final norm, and no classifier "
        "here does; import its encoder for another method, such as ijepa"
    )


def encoder(name: str, model_type: str, prefix: str, *larger: str, **choice: Any) -> Format:
    """One encoder; `larger`: classes that have it and a head. choice: further fields."""
    fields = dict(settings=settings(), refusal=refusal(), theirs=common.encoder_probe(name)) | choice
    return Format(
        name,
        "encoder",
        accepts=common.is_class(name, *larger),
        layout=encoder_layout(prefix),
        config=config(model_type, name),
        **fields,
    )


def classifier(name: str, model_type: str) -> Format:
    """The class token after the final norm, and a linear layer."""
    cls = "it pools by the class token"
    return Format(
        name,
        "classifier",
        accepts=common.is_class(name),
        settings=settings(pooling="cls"),
        refusal=lambda method: cls if getattr(method, "pooling", "cls") != "cls" else refusal()(method),
        layout=layout("vit.", dense("classifier", "head"), classifier=True),
        config=config(model_type, name),
        theirs=common.probe(name),
    )


FORMATS = (
    encoder("ViTModel", "vit", "vit.", "ViTForImageClassification", "ViTForMaskedImageModeling", buffers=pooler),
    encoder("ViTMSNModel", "vit_msn", "vit.", "ViTMSNForImageClassification"),
    encoder("ViTMAEModel", "vit_mae", "vit.", "ViTMAEForPreTraining", theirs=unmasked),
    encoder(
        "IJepaModel",
        "ijepa",
        "ijepa.",
        "IJepaForImageClassification",
        settings=settings(cls_token=False),
        refusal=refusal(cls_token=False),
    ),
    classifier("ViTForImageClassification", "vit"),
    classifier("ViTMSNForImageClassification", "vit_msn"),
    Format(
        "IJepaForImageClassification",
        "classifier",
        accepts=common.is_class("IJepaForImageClassification"),
        settings=no_classifier,
        refusal=lambda method: "it averages the tokens after the final norm",
        layout=layout("ijepa.", dense("classifier", "head"), classifier=True),
    ),
)
