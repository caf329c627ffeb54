"""microsoft/unilm, beit: names of the arrays, and how its reference cases read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result, Row
from mim_jax.interop.kinds import finetune, pretrain
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.original import dall_e
from mim_jax.interop.references import mask_statistics
from mim_jax.interop.references.param_groups import group_rows
from mim_jax.interop.rules import PATCHES, beit_block, dense, norm, same, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import beit_settings, masked_rows, patch_sizes, vit_config
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Output, ParamGroups, Variables
from mim_jax.methods.beit import BEiT
from mim_jax.methods.transformers import vit_groups
from mim_jax.models.classifier import Classifier
from mim_jax.models.tokenizer import TokenizerConfig
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.relative import RelativeBias, relative_index

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


def names(config: VitConfig, rest: tuple) -> NameMap:
    """The encoder's arrays and those of `rest`, with the fixed index of every relative table."""
    absent = {"^frozen/tokenizer/": "the cases give the ids"}
    return NameMap(under("params", (*ENCODER, *rest)), dict.fromkeys(tables(config), INDEX), absent=absent)


def tables(config: VitConfig) -> dict[str, Any]:
    """The index of a relative table under each of their names for it."""
    where = {"shared": ["rel_pos_bias"], "per_block": [f"blocks.{i}.attn" for i in range(config.depth)], "none": []}
    index = relative_index(config.grid, config.cls_token)
    return {f"{name}.relative_position_index": index for name in where[config.relative_bias]}


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

    layout = Layout(names(model, dense("lm_head", "head")), patch_sizes(model), tables(model))
    return Subject(method, layout, inputs, outputs)


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
    rest = (*norm("fc_norm", "fc_norm"), *dense("head", "head"))
    return finetune.run(case, model, Layout(names(config, rest), patch_sizes(config), tables(config)))


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
        return Layout(names(model, dense("lm_head", "head")), patch_sizes(model)), like, method.param_groups()
    classifier = Classifier(model, 2, "mean" if "mean pooling" in title else "cls")
    rest = (*norm("fc_norm", "fc_norm"), *dense("head", "head"))
    groups = dataclasses.replace(vit_groups(depth), no_decay=(r"encoder/(cls_token|pos_embed)$",))
    like = jax.eval_shape(classifier.init, key, image)
    return Layout(names(model, rest), patch_sizes(model)), like, groups


def is_parameter_groups(content: Mapping[str, Any]) -> bool:
    return any(_GROUPS.match(title) for title in content)


SYSTEM = System(
    upstream="microsoft/unilm",
    kinds={"pretrain": run_pretrain, "finetune": run_finetune, "dvae_encoder": dall_e.run_encoder},
    references=((is_parameter_groups, parameter_groups), mask_statistics.reference(mask_statistics.blocks())),
)
