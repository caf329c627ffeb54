"""Atten4Vis/CAE: names of the arrays, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds import attentive_probe, finetune, pretrain
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.references import mask_statistics
from mim_jax.interop.rules import LINEAR, PATCHES, beit_block, dense, norm, same, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.masking.mask import mask_from_hidden
from mim_jax.methods.base import Output
from mim_jax.methods.cae import CAE
from mim_jax.models.attentive import AttentiveProbe
from mim_jax.models.classifier import Classifier
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.positions import sincos_2d
from mim_jax.nn.relative import relative_index


def encoder(theirs: str = "", ours: str = "encoder/") -> tuple[Rule, ...]:
    """The backbone, `theirs` and `ours` being what its names start with."""
    return (
        *same(f"{theirs}cls_token", f"{ours}cls_token"),
        *dense(f"{theirs}patch_embed.proj", f"{ours}patch_embed/proj", PATCHES),
        *beit_block(f"{theirs}blocks.{{i}}", f"{ours}blocks_{{i}}"),
        *norm(f"{theirs}norm", f"{ours}norm"),
    )


def cross_attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    weights = (Rule((f"{theirs}.{n}.weight",), (f"{ours}/{n}/kernel",), LINEAR) for n in "qkv")
    biases = (rule for n in "qv" for rule in same(f"{theirs}.{n}_bias", f"{ours}/{n}_bias"))
    return (*weights, *biases, *dense(f"{theirs}.proj", f"{ours}/proj"))


def regressor_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *(rule for n in "qkv" for rule in norm(f"{theirs}.norm1_{n}", f"{ours}/norm1_{n}")),
        *cross_attention(f"{theirs}.cross_attn", f"{ours}/attn"),
        *norm(f"{theirs}.norm2_cross", f"{ours}/norm2"),
        *dense(f"{theirs}.mlp_cross.fc1", f"{ours}/mlp/fc1"),
        *dense(f"{theirs}.mlp_cross.fc2", f"{ours}/mlp/fc2"),
        *same(f"{theirs}.gamma_1_cross", f"{ours}/gamma_1"),
        *same(f"{theirs}.gamma_2_cross", f"{ours}/gamma_2"),
    )


PRETRAIN = (
    *encoder("encoder."),
    *dense("encoder_to_regresser", "projection/dense"),
    *norm("encoder_to_regresser_norm", "projection/norm"),
    *same("mask_token", "regressor/mask_token"),
    *regressor_block("regresser.regressor_blocks.{i}", "regressor/blocks_{i}"),
    *norm("regresser.norm", "regressor/norm"),
    *beit_block("decoder.decoder_blocks.{i}", "decoder/blocks_{i}"),
    *norm("decoder.norm", "decoder/norm"),
    *dense("decoder.head", "decoder/head"),
)
CLASSIFIER = (*encoder(), *norm("fc_norm", "fc_norm"), *dense("head", "head"))
PROBE = (
    *same("query_token", "params/pool/query"),
    *(rule for n in "qkv" for rule in norm(f"attentive_blocks.0.norm_{n}", f"params/pool/norm_{n}")),
    *cross_attention("attentive_blocks.0.cross_attn", "params/pool/attn"),
    *dense("head", "params/head"),
    *same("fc_norm.running_mean", "batch_stats/norm/mean"),
    *same("fc_norm.running_var", "batch_stats/norm/var"),
)
FIXED = "the fixed sin-cos table is computed, not stored"
COUNTER = {r"^fc_norm\.num_batches_tracked$": "a counter that a batch norm with fixed momentum does not use"}
TWIN = {r"^alignment_encoder\.": "a copy of the encoder, which is called a second time instead"}
TOKENIZER = {r"^frozen/tokenizer/": "the cases give the ids"}


def settings(case: Case, **more: Any) -> VitConfig:
    """The encoder of a case."""
    bias = "qv" if case.config.get("qkv_bias", True) else "none"
    scale = float(case.config.get("layer_scale_init") or 0.0)
    family: dict[str, Any] = dict(positions="sincos_cae", init="cae", qkv_bias=bias, layer_scale=scale)
    return vit_config(case, **family | more)


def pretraining(case: Case) -> Subject:
    """CAE as a case asks for it; the case's mask and token ids take the place of generator and tokenizer."""
    c, model = case.config, settings(case)
    hidden = np.asarray(case.inputs["mask"]).astype(bool)
    count = int(hidden[0].sum())
    if (
        hidden.shape[1:] != (model.tokens,)
        or (hidden.sum(1) != count).any()
        or count != c.get("num_masking_patches", count)
    ):
        raise VerifyError(f"{case.folder}: the mask does not hide the same, stated number of patches of every image")
    for name, array in case.weights.items():
        twin = name.removeprefix("alignment_")
        if twin != name and not (twin in case.weights and np.array_equal(array, case.weights[twin])):
            raise VerifyError(f"{case.folder}: '{name}' is not '{twin}', so this is not the encoder without gradient")
    section = dict(
        tokenizer=dict(
            kind="vq", image_size=tuple(2 * n for n in model.grid), stride=2, vocabulary=int(c["vocabulary"]), hidden=4
        ),
        num_mask_patches=count,
        masking="random",  # the case brings its mask
        min_block=int(c.get("min_mask_patches", 16)),
        regressor_depth=c["regressor_depth"],
        decoder_depth=c["decoder_depth"],
        decoder_width=c["decoder_width"],
        decoder_heads=c["decoder_heads"],
        decoder_layer_scale=float(c.get("decoder_layer_scale_init", 0.1)),
        align_weight=float(c["align_weight"]),
    )
    method = CAE.from_config(dataclasses.asdict(model), section)
    widths = {"encoder": model.width, "alignment_encoder": model.width, "rd": method.decoder_width}
    tables = {f"{n}{'_' if n == 'rd' else '.'}pos_embed": positions(model, width) for n, width in widths.items()}
    names = NameMap(under("params", PRETRAIN), dict.fromkeys(tables, FIXED), ignored=TWIN, absent=TOKENIZER)

    def inputs(arrays: Mapping[str, Any]):
        hidden = jnp.asarray(arrays["mask"]).astype(bool)
        mask = mask_from_hidden(hidden, count, model.grid)
        batch = {"image": jnp.asarray(arrays["images"]), "tokens": jnp.asarray(arrays["tokens"], jnp.int32)}
        paths = dict.fromkeys(("encoder", "target", "regressor", "decoder"))
        return batch, {"mask": mask, "drop_path": paths}

    return Subject(method, Layout(names, patch_sizes(model), tables), inputs, outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases."""
    theirs = dict(logits="pred", labels="labels", encoder_out="latent", regressor_input_visible="visible")
    theirs |= dict(latent_predict="predicted", latent_target="target")
    terms = dict(loss_main=output.terms["tokens"], loss_align=output.terms["align"])
    return {**terms, **{name: output.trace[ours] for name, ours in theirs.items()}}


def positions(config: VitConfig, width: int) -> np.ndarray:
    return sincos_2d(config.grid[::-1], width, row_first=True)[None]  # their numbering, which shows on rectangles


def run_finetune(case: Case) -> Result:
    """Fine-tuning, or the attentive probe on it."""
    c = case.config
    tables = "per_block" if c.get("rel_pos_per_block") else "shared" if c.get("rel_pos_shared") else "none"
    probe, kind = c.get("probe", "none"), "sincos_cae" if "pos_embed" in case.weights else "none"
    config, classes = settings(case, relative_bias=tables, positions=kind), int(c["classes"])
    index = [f"blocks.{i}.attn.relative_position_index" for i in range(config.depth)]
    fixed = dict.fromkeys((*index, "rel_pos_bias.relative_position_index"), relative_index(config.grid))
    fixed["pos_embed"] = positions(config, config.width)
    computed = dict.fromkeys(fixed, "a fixed table is computed, not stored")
    shared = same("rel_pos_bias.relative_position_bias_table", "encoder/relative_bias/table")
    if probe == "attentive":
        backbone = under("backbone", encoder(ours="params/") + same(shared[0].theirs[0], "params/relative_bias/table"))
        names = NameMap((*backbone, *under("probe", PROBE)), computed=computed, ignored=COUNTER)
        head = AttentiveProbe(classes, config.heads, config.layer_norm_eps, config.qkv_bias)
        return attentive_probe.run(case, Vit(config), head, Layout(names, patch_sizes(config), fixed))
    if probe not in ("none", "standard"):
        raise VerifyError(f"{case.folder}: config.probe '{probe}' is not none, standard or attentive")
    names = NameMap(under("params", CLASSIFIER + shared), computed=computed)
    model = Classifier(config, classes, "mean" if c["mean_pooling"] else "cls")
    return finetune.run(case, model, Layout(names, patch_sizes(config), fixed))


SYSTEM = System(
    upstream="Atten4Vis/CAE",
    kinds={"pretrain": lambda case: pretrain.run(case, pretraining(case)), "finetune": run_finetune},
    references=(mask_statistics.reference(mask_statistics.blocks(exact=True)),),
)
