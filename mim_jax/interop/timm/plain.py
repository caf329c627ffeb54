"""What timm's vision transformers of one width share: VisionTransformer and Beit."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop import format
from mim_jax.interop.huggingface.common import final_norm
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED, fixed_table, kind_of_table, relative_indices
from mim_jax.interop.rules import dense, norm, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.timm import common
from mim_jax.interop.vit_case import patch_sizes
from mim_jax.methods.base import Method, Variables
from mim_jax.models.vit_config import VitConfig

CLASSIFIER = (*norm("fc_norm", "fc_norm"), *dense("head", "head"))


def model_settings(found: dict[str, Any], table: np.ndarray | None, trained: bool, **kind: Any) -> dict[str, Any]:
    """The model section. table: of positions, class token first. trained: fine-tuning trains it, whatever its start.

    kind: what the families have differently.
    """
    model = dict(
        image_size=common.pair(found["img_size"]),
        patch_size=common.pair(found["patch_size"]),
        channels=found["in_chans"],
        width=found["embed_dim"],
        depth=found["depth"],
        heads=found["num_heads"],
        mlp_ratio=found["mlp_ratio"],
        layer_norm_eps=found["norm_eps"],
        layer_scale=found["init_values"] or 0.0,
        **kind,
    )
    if table is None:
        return {**model, "positions": "none"}
    learned = trained or table.ndim != 3
    kind_found = "learned" if learned else kind_of_table(table, VitConfig.from_section(model))
    # Learned positions are resized as timm does it.
    resized = {"position_antialias": True, "position_offset": 0.0} if kind_found == "learned" else {}
    return {**model, **resized, "positions": kind_found}


def method_settings(source: Source, found: dict[str, Any], classifier: bool) -> dict[str, Any]:
    """The method section: of a classifier; of an encoder without a final norm, which fine-tuning alone can have."""
    if classifier:
        return {"pooling": pooling(source, found), "classes": found["num_classes"]}
    return {"pooling": "mean"} if found["fc_norm"] or not found["final_norm"] else {}


def pooling(source: Source, found: dict[str, Any]) -> str:
    """How fine-tuning pools: by the class token after the norm, or by the mean of the patches before one.

    Raises:
        DataError: another pooling, or the norm on its other side.
    """
    known = {("token", False): "cls", ("avg", True): "mean"}
    pool = (found["global_pool"], found["fc_norm"])
    if pool not in known or not found["final_norm"]:
        norms = "without a norm" if not found["final_norm"] else f"with the norm {'after' if pool[1] else 'before'} it"
        raise DataError(
            f"{source.path}: global_pool '{pool[0]}' {norms} is not supported, only 'token' with the norm before it "
            "and 'avg' with the norm after it"
        )
    return known[pool]


def tokens_of(method: Method, variables: Variables, images: Any) -> dict[str, Any]:
    """`Format.ours`: as everywhere, but without the norm of a head that is the encoder's final norm (MaskFeat)."""
    found = format.tokens_of(method, variables, images)
    if not final_norm(method):
        found["tokens"] = found[f"block {method.model.depth}"]
    return found


def layout(encoder: tuple[Rule, ...], classifier: bool) -> Callable[[Method, Collection[str]], Layout]:
    """`Format.layout`. encoder: rules of the family."""

    def made(method: Method, names: Collection[str]) -> Layout:
        table = fixed_table(method.model, method.name == "finetune")
        tables = {} if table is None else {"pos_embed": table}
        tables |= {name: index for name, index in relative_indices(method.model).items() if name in names}
        rules = under("params", (*encoder, *(CLASSIFIER if classifier else ())))
        ignored = {} if classifier else {r"^(fc_norm|head)\.(weight|bias)$": common.OTHER_CLASSIFIER}
        return Layout(NameMap(rules, dict.fromkeys(tables, FIXED), ignored), patch_sizes(method.model), tables)

    return made


def sizes(config: VitConfig) -> dict[str, Any]:
    """What the constructors of all plain families take."""
    return dict(
        img_size=common.either(config.image_size),
        patch_size=common.either(config.patch_size),
        in_chans=config.channels,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        init_values=config.layer_scale,
    )
