"""facebookresearch/mae: names of the arrays, its checkpoints, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mim_jax.interop import authors, mae_case
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Row
from mim_jax.interop.kinds import finetune, lars, linear_probe, pos_resize, pretrain, train
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.positions import FIXED
from mim_jax.interop.references.param_groups import block_count, group_rows
from mim_jax.interop.rules import dense, norm, same, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.methods.base import Method, Variables
from mim_jax.methods.finetune import Finetune
from mim_jax.methods.mae import MAE
from mim_jax.methods.transformers import vit_groups
from mim_jax.models.classifier import Classifier
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.positions import sincos_2d

BACKBONE, DECODER = mae_case.backbone(), mae_case.decoder()
CLASSIFIER = (*BACKBONE, *same("pos_embed", "encoder/pos_embed"), *norm("fc_norm", "fc_norm"))
PROBE = (
    *dense("head.1", "probe/params/head"),
    *same("head.0.running_mean", "probe/batch_stats/norm/mean"),
    *same("head.0.running_var", "probe/batch_stats/norm/var"),
)
PRETRAIN_NAMES = NameMap(
    rules=under("params", BACKBONE + DECODER), computed={"pos_embed": FIXED, "decoder_pos_embed": FIXED}
)
ENCODER_NAMES = NameMap(
    rules=under("params", BACKBONE),
    computed={"pos_embed": FIXED},
    ignored={r"^(decoder_|mask_token$)": "the decoder, which is no part of the encoder"},
)
CLASSIFIER_NAMES = NameMap(rules=under("params", (*CLASSIFIER, *dense("head", "head"))))
PROBE_NAMES = NameMap(
    rules=(*under("backbone/params", CLASSIFIER), *PROBE),
    ignored={r"^head\.0\.num_batches_tracked$": "a counter that a batch norm with fixed momentum does not use"},
)


def layout(method: MAE) -> Layout:
    """The pretrained network: encoder, decoder, and both position tables."""
    return Layout(PRETRAIN_NAMES, patch_sizes(method.model), mae_case.tables(method))


def encoder_layout(method: Method) -> Layout:
    """The encoder alone, as it is published."""
    tables = {"pos_embed": sincos_2d(method.model.grid, method.model.width)[None]}
    return Layout(ENCODER_NAMES, patch_sizes(method.model), tables)


def classifier_layout(config: VitConfig) -> Layout:
    """The fine-tuned network."""
    return Layout(CLASSIFIER_NAMES, patch_sizes(config))


def pretraining(case: Case) -> Subject:
    """MAE as a case asks for it; the case's noise decides which patches are kept."""
    model = dataclasses.asdict(vit_config(case))
    method = MAE.from_config(model, mae_case.decoder_settings(case))
    return Subject(method, layout(method), mae_case.inputs(case, method), mae_case.outputs)


def classifier(case: Case, classes: int) -> tuple[Classifier, VitConfig]:
    """The fine-tuning model of a case; 0 classes for the part below the head."""
    config = vit_config(case, positions="learned")
    return Classifier(config, classes, "mean" if case.config["global_pool"] else "cls"), config


def run_finetune(case: Case):
    model, config = classifier(case, int(case.config["classes"]))
    return finetune.run(case, model, classifier_layout(config))


def run_linear_probe(case: Case):
    model, config = classifier(case, 0)
    return linear_probe.run(case, model, Layout(PROBE_NAMES, patch_sizes(config)))


def parameter_groups(content: Mapping[str, Any]) -> list[Row]:
    """Layer decay and weight decay of fine-tuning, and weight decay of pretraining, parameter by parameter."""
    rows = []
    if "groups" in content:
        depth = int(content["depth"])
        config = VitConfig(image_size=(8, 8), patch_size=(4, 4), width=4, depth=depth, heads=1)
        like = jax.eval_shape(Classifier(config, 2).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        groups = dataclasses.replace(vit_groups(depth), no_decay=(r"encoder/(cls_token|pos_embed)$",))
        rows += group_rows("fine-tuning", content["groups"], content, classifier_layout(config), like, groups)
    if "pretraining_weight_decay" in content:
        decays = {k: {"weight_decay": v} for k, v in content["pretraining_weight_decay"]["groups"].items()}
        config = VitConfig((8, 8), 3, (4, 4), width=4, depth=block_count(decays, "blocks"), heads=1)
        mae = MAE(config, decoder_width=4, decoder_depth=block_count(decays, "decoder_blocks"), decoder_heads=1)
        like = Variables(params=jax.eval_shape(mae.init, jax.random.key(0), {"image": jnp.zeros((1, 8, 8, 3))}).params)
        rows += group_rows("pretraining", decays, content, layout(mae), like, mae.param_groups())
    return rows


def is_parameter_groups(content: Mapping[str, Any]) -> bool:
    return "weight_decay" in content and ("groups" in content or "pretraining_weight_decay" in content)


SYSTEM = System(
    upstream="facebookresearch/mae",
    kinds={
        "pretrain": lambda case: pretrain.run(case, pretraining(case)),
        "train": lambda case: train.run(case, pretraining(case)),
        "finetune": run_finetune,
        "linear_probe": run_linear_probe,
        "pos_resize": pos_resize.run,
        "lars": lars.run,
    },
    references=((is_parameter_groups, parameter_groups),),
)


def encoder_refusal(method: Method, positions: tuple[str, ...] = ("sincos",)) -> str:
    """What the authors' encoder cannot be."""
    return authors.vit_needs(method.model, {**authors.PLAIN, "positions": positions})


def refusal(method: MAE) -> str:
    """What the authors' MAE cannot be."""
    own = authors.needs(method, {"target": ("norm_pix", "pixel"), "encoder_mask_tokens": (False,)}, "method")
    return own or encoder_refusal(method)


def classifier_refusal(method: Finetune) -> str:
    """What the authors' classifier cannot be; fine-tuning makes fixed positions trainable."""
    return encoder_refusal(method, ("sincos", "learned", "learned_sincos"))


ENCODER_FILE = ("cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias")
FORMATS = (
    authors.checkpoint(
        "mae",
        "all",
        accepts=lambda arrays: has(arrays, "cls_token", "decoder_embed.weight", "decoder_pred.weight"),
        shows=mae_case.shows,
        layout=layout,
        refusal=refusal,
        methods=("mae",),
    ),
    authors.checkpoint(
        "mae",
        "encoder",
        accepts=lambda arrays: has(arrays, *ENCODER_FILE) and "head.weight" not in arrays,
        shows=authors.vit_shows,
        layout=encoder_layout,
        refusal=encoder_refusal,
        methods=("mae",),
    ),
    authors.checkpoint(
        "mae",
        "classifier",
        accepts=lambda arrays: has(arrays, "cls_token", "pos_embed", "head.weight", "blocks.0.attn.qkv.bias"),
        shows=authors.vit_shows,
        layout=lambda method: classifier_layout(method.model),
        refusal=classifier_refusal,
        settings=lambda arrays: {"method": authors.classifier_method(arrays)},
    ),
)
