"""transformers' BEiT (Bao et al. ICLR 2022) and Data2VecVision, the same network: encoder and classifier.

Files on the hub, and those that transformers 5 saves, have the names of transformers 4; the modules of 5 have others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.format import Format, Probe, nothing
from mim_jax.interop.huggingface import common
from mim_jax.interop.huggingface.vit import IGNORED, positions
from mim_jax.interop.huggingface.vit_mae import NEW_BLOCK, OLD_BLOCK
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED, fixed_table
from mim_jax.interop.rules import LINEAR, PATCHES, dense, norm, same, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.torch_side import module
from mim_jax.interop.vit_case import patch_sizes
from mim_jax.methods.base import Method
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.relative import relative_index

TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"


@dataclass(frozen=True)
class Family:
    """kind: `model_type`. stem: of the names of the classes. prefix: of the encoder's arrays inside them.

    pooler: whether the encoder alone has the norm after the mean of its patches.
    """

    kind: str
    stem: str
    prefix: str
    pooler: bool


FAMILIES = (
    Family("beit", "Beit", "beit.", True),
    Family("data2vec-vision", "Data2VecVision", "data2vec_vision.", False),
)


def block(theirs: str, table: str, names: dict) -> tuple[Rule, ...]:
    """A block: keys have no bias. table: where its own table of relative positions is."""
    ours, (q, k, v) = "encoder/blocks_{i}", (f"{theirs}.{name}" for name in names["qkv"])
    return (
        *norm(f"{theirs}.layernorm_before", f"{ours}/norm1"),
        Rule((f"{q}.weight", f"{k}.weight", f"{v}.weight"), (f"{ours}/attn/qkv/kernel",), LINEAR),
        *same(f"{q}.bias", f"{ours}/attn/q_bias"),
        *same(f"{v}.bias", f"{ours}/attn/v_bias"),
        *same(f"{table}.{TABLE}", f"{ours}/attn/relative_bias/table"),
        *dense(f"{theirs}.{names['proj']}", f"{ours}/attn/proj"),
        *same(f"{theirs}.lambda_1", f"{ours}/gamma_1"),
        *norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
        *dense(f"{theirs}.{names['fc1']}", f"{ours}/mlp/fc1"),
        *dense(f"{theirs}.{names['fc2']}", f"{ours}/mlp/fc2"),
        *same(f"{theirs}.lambda_2", f"{ours}/gamma_2"),
    )


def arrays(new: bool, prefix: str) -> tuple[Rule, ...]:
    """Rules of the encoder without final norm and mask token, in the names of transformers 5 (`new`) or 4."""
    layer = f"{prefix}layers.{{i}}" if new else f"{prefix}encoder.layer.{{i}}"
    own = f"{layer}.relative_position_bias" if new else f"{layer}.attention.attention.relative_position_bias"
    shared = f"{prefix}shared_position_bias" if new else f"{prefix}encoder.relative_position_bias"
    return (
        *same(f"{prefix}embeddings.cls_token", "encoder/cls_token"),
        *same(f"{prefix}embeddings.position_embeddings", "encoder/pos_embed"),
        *dense(f"{prefix}embeddings.patch_embeddings.projection", "encoder/patch_embed/proj", PATCHES),
        *same(f"{shared}.{TABLE}", "encoder/relative_bias/table"),
        *block(layer, own, NEW_BLOCK if new else OLD_BLOCK),
    )


def whole(method: Any, names: Collection[str], prefix: str, rest: tuple, ignored: dict, classifier: bool) -> Layout:
    """Names, sizes and tables. rest: rules of what `arrays` does not have."""
    config: VitConfig = method.model
    new = any(name.startswith(f"{prefix}layers.") for name in names)
    fixed = fixed_table(config, classifier)
    tables: dict[str, Any] = {} if fixed is None else {f"{prefix}embeddings.position_embeddings": fixed}
    index = relative_index(config.grid, config.cls_token)
    tables |= {name: index for name in names if name.endswith(INDEX)}  # some files of transformers 4 hold it
    rules = under("params", (*arrays(new, prefix), *rest))
    return Layout(NameMap(rules, dict.fromkeys(tables, FIXED), ignored), patch_sizes(config), tables)


def encoder_layout(prefix: str, final_norm: bool = True) -> Any:
    """`Format.layout` of an encoder, alone or inside a class with a head."""

    def made(method: Method, names: Collection[str]) -> Layout:
        inside = common.prefix_of(names, prefix)
        # The class with the MIM head has the norm beside the encoder, not in it.
        where = "layernorm" if not names or "layernorm.weight" in names else f"{inside}layernorm"
        return whole(method, names, inside, norm(where, "encoder/norm") if final_norm else (), IGNORED, False)

    return made


def classifier_layout(prefix: str) -> Any:
    """`Format.layout` of a classifier: one norm, before or after the pooling."""

    def made(method: Any, names: Collection[str]) -> Layout:
        mean = norm(f"{prefix}pooler.layernorm", "fc_norm")
        pooled = mean if method.pooling == "mean" else norm(f"{prefix}layernorm", "encoder/norm")
        token = {r"embeddings\.mask_token$": "nothing is hidden in fine-tuning"}
        return whole(method, names, prefix, (*pooled, *dense("classifier", "head")), token, True)

    return made


def sizes(source: Source, classifier: bool = False) -> dict[str, Any]:
    """The section `model`.

    Raises:
        DataError: tables of relative positions both of all blocks and of each.
    """
    c = source.config
    shared, own = c.get("use_shared_relative_position_bias", False), c.get("use_relative_position_bias", False)
    if shared and own:
        raise DataError(
            f"{source.folder / 'config.json'}: use_relative_position_bias and use_shared_relative_position_bias are "
            "both true, and an encoder here has one kind of table"
        )
    model = common.vit_sizes(source) | dict(
        qkv_bias="qv",
        layer_scale=max(c.get("layer_scale_init_value", 0.1), 0.0),
        relative_bias="shared" if shared else "per_block" if own else "none",
        cls_token=True,
        init="beit",
    )
    learned = classifier and c.get("use_absolute_position_embeddings", False)  # fine-tuning trains them
    model["positions"] = "learned" if learned else positions(source, model)
    return model


def pools_mean(source: Source) -> bool:
    """Whether there is a norm after the mean of the patches, and so none at the end of the encoder."""
    return bool(source.config.get("use_mean_pooling", True)) and not common.architecture(source).endswith("Modeling")


def encoder_settings(source: Source) -> dict[str, Any]:
    """`Format.settings` of an encoder; one without a final norm says so by its pooling."""
    check_norms(source)
    method = {"pooling": "mean"} if pools_mean(source) else {}
    return {"model": sizes(source), "method": method, "data": common.pixels(source)}


def check_norms(source: Source) -> None:
    """Raises DataError where the class with the MIM head has a norm in the encoder besides the one after it."""
    if common.architecture(source).endswith("Modeling") and not source.config.get("use_mean_pooling", True):
        raise DataError(
            f"{source.folder / 'config.json'}: use_mean_pooling false gives {common.architecture(source)} two final "
            "norms, and an encoder here has one"
        )


def classifier_settings(source: Source) -> dict[str, Any]:
    """`Format.settings` of a classifier."""
    pooling = "mean" if pools_mean(source) else "cls"
    method = {"pooling": pooling, "classes": common.classes(source)}
    return {"model": sizes(source, True), "method": method, "data": common.pixels(source)}


def refusal(method: Any) -> str:
    """`Format.refusal`: what no class can hold."""
    config = method.model
    if not isinstance(config, VitConfig):
        return "the encoder is no plain vision transformer"
    if not config.cls_token:
        return "it has a class token"
    if config.qkv_bias != "qv":
        return "its queries and values have biases and its keys none (model.qkv_bias qv)"
    return ""


def encoder_refusal(final_norm: bool) -> Callable[[Any], str]:
    """`Format.refusal` of an encoder with or without a final norm."""
    other = "it ends with a norm, and this encoder with none" if final_norm else "it ends without a norm"
    return lambda method: refusal(method) or ("" if common.final_norm(method) == final_norm else other)


def config(family: Family, name: str, **own: Any) -> Any:
    """`Format.config`."""

    def write(method: Any) -> dict[str, Any]:
        c: VitConfig = method.model
        switches = {
            "use_absolute_position_embeddings": c.positions != "none",
            "use_relative_position_bias": c.relative_bias == "per_block",
            "use_shared_relative_position_bias": c.relative_bias == "shared",
            "layer_scale_init_value": c.layer_scale,
            "drop_path_rate": c.drop_path_rate,
            "use_mask_token": False,
            "use_mean_pooling": getattr(method, "pooling", "cls") == "mean",
        }
        return common.vit_config(c, family.kind, name) | switches | own | common.labels(method)

    return write


def encoder_theirs(name: str) -> Any:
    """`Format.theirs` of an encoder, whose final norm the class with the MIM head has beside it."""

    def theirs(source: Source) -> Probe:
        model = common.load(source, common.architecture(source) or name)

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            out = common.call(model.base_model, images)
            if hasattr(model, "lm_head"):
                with module("torch").no_grad():
                    out.last_hidden_state = model.layernorm(out.last_hidden_state)
            return common.named_outputs(out)

        return run

    return theirs


def pooler(method: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The norm after the mean of the patches, which the part 'encoder' leaves out, without scale and shift."""
    width = method.model.width
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    return {"pooler.layernorm.weight": ones, "pooler.layernorm.bias": zeros}


def encoder_format(family: Family, ends: bool) -> Format:
    """The encoder with a final norm (`ends`), or without: then it is one of the methods whose head has that norm."""
    name, larger = f"{family.stem}Model", f"{family.stem}For"
    known = common.is_class(name, f"{larger}ImageClassification", f"{larger}MaskedImageModeling")
    return Format(
        name if ends else f"{name} without final norm",
        "encoder",
        accepts=lambda source: known(source) and pools_mean(source) != ends,
        settings=encoder_settings,
        refusal=encoder_refusal(ends),
        layout=encoder_layout(family.prefix, ends),
        config=config(family, name, use_mean_pooling=not ends),
        theirs=encoder_theirs(name),
        buffers=pooler if family.pooler and not ends else nothing,
        methods=() if ends else ("finetune", "maskfeat"),
    )


def classifier_format(family: Family) -> Format:
    name = f"{family.stem}ForImageClassification"
    return Format(
        name,
        "classifier",
        accepts=common.is_class(name),
        settings=classifier_settings,
        refusal=refusal,
        layout=classifier_layout(family.prefix),
        config=config(family, name),
        theirs=common.probe(name),
    )


FORMATS = (
    *(encoder_format(family, ends) for ends in (True, False) for family in FAMILIES),
    *map(classifier_format, FAMILIES),
)
