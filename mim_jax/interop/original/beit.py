"""microsoft/unilm, beit: names of the arrays, its checkpoints, and how its reference cases read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result, Row
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import finetune, pretrain
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.original import dall_e
from mim_jax.interop.positions import relative_indices
from mim_jax.interop.references import mask_statistics
from mim_jax.interop.references.param_groups import group_rows
from mim_jax.interop.rules import PATCHES, beit_block, dense, norm, same, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import beit_settings, masked_rows, patch_sizes, vit_config
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Method, Output, ParamGroups, Variables
from mim_jax.methods.beit import BEiT
from mim_jax.methods.transformers import vit_groups
from mim_jax.models.classifier import Classifier
from mim_jax.models.tokenizer import TokenizerConfig
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.relative import RelativeBias

ENCODER = (
    *same("cls_token", "encoder/cls_token"),
    *same("mask_token", "encoder/mask_token"),
    *same("pos_embed", "encoder/pos_embed"),
    *same("rel_pos_bias.relative_position_bias_table", "encoder/relative_bias/table"),
    *dense("patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
    *beit_block("blocks.{i}", "encoder/blocks_{i}"),
    *norm("norm", "encoder/norm"),
)
_GROUPS = re.compile(r"(pretraining|fine-tuning) \(")
INDEX = "which row of the table a pair of positions reads; computed, not stored"
TOKENIZER = {"^frozen/tokenizer/": "the cases give the ids, and checkpoints come without it"}
OTHERS = r"^(mask_token$|lm_head\.)"  # than the encoder, in a pretrained network
CLASSIFIER = (*norm("fc_norm", "fc_norm"), *dense("head", "head"))


def layout(config: VitConfig, rest: tuple) -> Layout:
    """The encoder's arrays and those of `rest`, with the fixed index of every relative table."""
    tables = relative_indices(config)
    names = NameMap(
        under("params", (*ENCODER, *rest)), dict.fromkeys(tables, INDEX), absent={**TOKENIZER, **authors.TEACHER}
    )
    return Layout(names, patch_sizes(config), tables)


def pretrain_layout(config: VitConfig) -> Layout:
    """The pretrained network."""
    return layout(config, dense("lm_head", "head"))


def pretraining(case: Case) -> Subject:
    """BEiT as a case asks for it; its tokens are given, so the tokenizer stays untouched."""
    c = case.config
    model = vit_config(case, **beit_settings(case))
    # The case gives the ids, so any tokenizer of the same grid and vocabulary serves.
    size = (2 * model.grid[0], 2 * model.grid[1])
    tokenizer = dict(kind="vq", vocabulary=c["vocabulary"], stride=2, image_size=size, hidden=4)
    section = dict(num_mask_patches=c["num_masking_patches"], min_block=c["min_mask_patches"], tokenizer=tokenizer)
    method = BEiT.from_config(dataclasses.asdict(model), section)

    def inputs(arrays: Mapping[str, Any]):
        hidden = jnp.asarray(np.asarray(arrays["mask"]) > 0).reshape(-1, model.tokens)
        batch = {"image": jnp.asarray(arrays["images"]), "tokens": jnp.asarray(arrays["tokens"], jnp.int32)}
        return batch, {"mask": Mask(hidden, grid=model.grid), "drop_path": None}

    return Subject(method, pretrain_layout(model), inputs, outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases."""
    t = output.trace
    hidden = t["mask"].hidden
    return {
        "logits": masked_rows(t["pred"], hidden),
        "labels": masked_rows(t["target"], hidden),
        "features": t["latent"],
    }


def run_pretrain(case: Case) -> Result:
    """The loss and its gradients; and the bias of the shared table as the attention sees it."""
    subject = pretraining(case)
    result = pretrain.run(case, subject)
    model = vit_config(case, **beit_settings(case))
    if model.relative_bias == "shared":
        table = case.weights["rel_pos_bias.relative_position_bias_table"]
        bias = RelativeBias(model.heads, model.grid, model.cls_token).apply({"params": {"table": table}})
        result.arrays["relative_bias"] = bias[0]
    return result


def run_finetune(case: Case) -> Result:
    """The classifier, and the raw output of every block."""
    config = vit_config(case, **beit_settings(case))
    pooling = "mean" if case.config["mean_pooling"] else "cls"
    model = Classifier(config, int(case.config["classes"]), pooling)
    return finetune.run(case, model, layout(config, CLASSIFIER))


def parameter_groups(content: Mapping[str, Any]) -> list[Row]:
    """Weight decay and layer decay, parameter by parameter, of the models that the titles of the tables describe."""
    rows = []
    for title, expected in content.items():
        if not _GROUPS.match(title):
            continue
        blocks, decay = re.search(r"(\d+) blocks", title), re.search(r"layer decay ([\d.]+)", title)
        if not blocks:
            raise VerifyError(f"the parameter groups '{title}' do not say how many blocks the model has")
        settings = {"weight_decay": max(entry["weight_decay"] for entry in expected.values())}
        settings["layer_decay"] = float(decay.group(1)) if decay else 1.0
        rows += group_rows(title.split(" (")[0], expected, settings, *small(title, int(blocks.group(1))))
    return rows


def small(title: str, depth: int) -> tuple[Layout, Any, ParamGroups]:
    """A model as the title of a table describes it; its widths play no part."""
    bias = {"shared table": "shared", "table per block": "per_block"}
    model = VitConfig(
        (8, 8),
        3,
        (4, 4),
        width=4,
        depth=depth,
        heads=1,
        layer_scale=0.1,
        qkv_bias="qv",
        init="beit",
        positions="learned" if "absolute positions" in title else "none",
        relative_bias=next((bias[words] for words in bias if words in title), "none"),
    )
    key, image = jax.random.key(0), jnp.zeros((1, 8, 8, 3))
    if title.startswith("pretraining"):
        tokenizer = TokenizerConfig(kind="vq", vocabulary=8, stride=4, image_size=(8, 8), hidden=8)
        method = BEiT(model, tokenizer, num_mask_patches=2, min_block=2)
        like = Variables(params=jax.eval_shape(method.init, key, {"image": image, "tokens": image}).params)
        return pretrain_layout(model), like, method.param_groups()
    classifier = Classifier(model, 2, "mean" if "mean pooling" in title else "cls")
    groups = dataclasses.replace(vit_groups(depth), no_decay=(r"encoder/(cls_token|pos_embed)$",))
    like = jax.eval_shape(classifier.init, key, image)
    return layout(model, CLASSIFIER), like, groups


def is_parameter_groups(content: Mapping[str, Any]) -> bool:
    return any(_GROUPS.match(title) for title in content)


SYSTEM = System(
    upstream="microsoft/unilm",
    kinds={"pretrain": run_pretrain, "finetune": run_finetune, "dvae_encoder": dall_e.run_encoder},
    references=((is_parameter_groups, parameter_groups), mask_statistics.reference(mask_statistics.blocks())),
)


def shows(arrays: Arrays) -> dict[str, Any]:
    """Sizes of the encoder, and the vocabulary."""
    head = authors.sizes_show(arrays, {"lm_head.weight": "method.tokenizer.vocabulary"}, {})
    return authors.vit_shows(arrays) | head


def refusal(method: Method) -> str:
    """What the authors' vision transformer cannot be."""
    return authors.vit_needs(method.model, {**authors.BEIT, "positions": ("learned", "none")})


def is_encoder(arrays: Arrays) -> bool:
    """A network of BEiT's family without a classifier."""
    named = has(arrays, "cls_token", "norm.weight", "blocks.0.attn.qkv.weight")
    return named and not {"head.weight", "blocks.0.attn.qkv.bias"} & set(arrays)


def is_classifier(arrays: Arrays) -> bool:
    """A fine-tuned network of BEiT's family whose positions are learned or none."""
    fixed = "pos_embed" in arrays and not arrays["pos_embed"][:, :1].any()  # CAE's: the class token has position 0
    return has(arrays, "cls_token", "head.weight", "blocks.0.attn.qkv.weight") and (
        "blocks.0.attn.qkv.bias" not in arrays and not fixed
    )


def classifier_settings(arrays: Arrays) -> dict[str, Any]:
    """Classes, pooling, and the switches that fine-tuning has and pretraining has not."""
    return {"method": authors.classifier_method(arrays), "model": authors.beit_model(arrays) | {"init": "beit"}}


FORMATS = (
    authors.checkpoint(
        "beit",
        "all",
        accepts=lambda arrays: has(arrays, "cls_token", "mask_token", "lm_head.weight"),
        shows=shows,
        layout=lambda method: pretrain_layout(method.model),
        refusal=refusal,
        methods=("beit",),
    ),
    authors.checkpoint(
        "beit",
        "encoder",
        accepts=is_encoder,
        shows=authors.vit_shows,
        layout=lambda method: authors.encoder_alone(pretrain_layout(method.model), OTHERS),
        refusal=refusal,
        methods=("beit",),
    ),
    authors.checkpoint(
        "beit",
        "classifier",
        accepts=is_classifier,
        shows=authors.vit_shows,
        layout=lambda method: layout(method.model, CLASSIFIER),
        refusal=refusal,
        settings=classifier_settings,
    ),
)
