"""Atten4Vis/CAE, both versions: names of the arrays, checkpoints, and how reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import attentive_probe, finetune, pretrain
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED, relative_indices
from mim_jax.interop.references import mask_statistics
from mim_jax.interop.rules import LINEAR, PATCHES, beit_block, dense, norm, same, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.masking.mask import mask_from_hidden
from mim_jax.methods.base import Method, Output
from mim_jax.methods.cae import CAE
from mim_jax.methods.cae_v2 import CAEv2
from mim_jax.models.attentive import AttentiveProbe
from mim_jax.models.classifier import Classifier
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.positions import sincos_2d


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
    *beit_block("decoder.decoder_blocks.{i}", "decoder/blocks_{i}"),
    *norm("decoder.norm", "decoder/norm"),
    *dense("decoder.head", "decoder/head"),
)
LAST_NORM = norm("regresser.norm", "regressor/norm")  # which the second version does not use
SHARED = "rel_pos_bias.relative_position_bias_table"
CLASSIFIER = (
    *encoder(),
    *same(SHARED, "encoder/relative_bias/table"),
    *norm("fc_norm", "fc_norm"),
    *dense("head", "head"),
)
PROBE = (
    *same("query_token", "params/pool/query"),
    *(rule for n in "qkv" for rule in norm(f"attentive_blocks.0.norm_{n}", f"params/pool/norm_{n}")),
    *cross_attention("attentive_blocks.0.cross_attn", "params/pool/attn"),
    *dense("head", "params/head"),
    *same("fc_norm.running_mean", "batch_stats/norm/mean"),
    *same("fc_norm.running_var", "batch_stats/norm/var"),
)
COUNTER = {r"^fc_norm\.num_batches_tracked$": "a counter that a batch norm with fixed momentum does not use"}
TWIN = {r"^alignment_encoder\.": "a copy of the encoder, which is called a second time instead"}
UNUSED = {r"^regresser\.norm\.": "a norm that the second version has and does not use"}
FROZEN = {r"^frozen/": "the cases give the ids, and checkpoints come without tokenizer or teacher"}
OTHERS = r"^(?!encoder\.)"  # than the encoder, in a pretrained network
INDEX = "which row of the table a pair of positions reads; computed, not stored"


def layout(method: CAE | CAEv2) -> Layout:
    """The pretrained network; the second version has neither alignment encoder nor decoder blocks."""
    model, second = method.model, isinstance(method, CAEv2)
    sides = {"encoder.pos_embed": model.width, "rd_pos_embed": method.decoder_width}
    sides |= {} if second else {"alignment_encoder.pos_embed": model.width}
    tables = {name: positions(model, width) for name, width in sides.items()}
    rules, ignored = (PRETRAIN, UNUSED) if second else (PRETRAIN + LAST_NORM, TWIN)
    names = NameMap(under("params", rules), dict.fromkeys(tables, FIXED), ignored=ignored, absent=FROZEN)
    return Layout(names, patch_sizes(model), tables)


def buffers(method: CAE | CAEv2, arrays: Arrays) -> Arrays:
    """What their checkpoints hold besides: a copy of the encoder, or the second version's unused norm."""
    if isinstance(method, CAE):
        return {f"alignment_{name}": array for name, array in arrays.items() if name.startswith("encoder.")}
    width = method.decoder_width
    return {"regresser.norm.weight": np.ones(width, np.float32), "regresser.norm.bias": np.zeros(width, np.float32)}


def classifier_layout(config: VitConfig) -> Layout:
    """The fine-tuned network: fixed positions, and tables of relative ones where fine-tuning adds them."""
    return fixed(config, under("params", CLASSIFIER))


def fixed(config: VitConfig, rules: tuple[Rule, ...], ignored: Mapping[str, str] | None = None) -> Layout:
    """Rules for a network below labels, with what its encoder computes."""
    table = {} if config.positions == "none" else {"pos_embed": positions(config, config.width)}
    index = relative_indices(config)
    computed = dict.fromkeys(table, FIXED) | dict.fromkeys(index, INDEX)
    return Layout(NameMap(rules, computed, ignored or {}), patch_sizes(config), table | index)


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

    def inputs(arrays: Mapping[str, Any]):
        hidden = jnp.asarray(arrays["mask"]).astype(bool)
        mask = mask_from_hidden(hidden, count, model.grid)
        batch = {"image": jnp.asarray(arrays["images"]), "tokens": jnp.asarray(arrays["tokens"], jnp.int32)}
        paths = dict.fromkeys(("encoder", "target", "regressor", "decoder"))
        return batch, {"mask": mask, "drop_path": paths}

    return Subject(method, layout(method), inputs, outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases."""
    theirs = dict(logits="pred", labels="labels", encoder_out="latent", regressor_input_visible="visible")
    theirs |= dict(latent_predict="predicted", latent_target="target")
    terms = dict(loss_main=output.terms["tokens"], loss_align=output.terms["align"])
    return {**terms, **{name: output.trace[ours] for name, ours in theirs.items()}}


def positions(config: VitConfig, width: int) -> np.ndarray:
    """The fixed table; their numbering of the patches, `sincos_cae`, shows on rectangles alone."""
    grid = config.grid[::-1] if config.positions == "sincos_cae" else config.grid
    return sincos_2d(grid, width, row_first=True)[None]


def run_finetune(case: Case) -> Result:
    """Fine-tuning, or the attentive probe on it."""
    c = case.config
    tables = "per_block" if c.get("rel_pos_per_block") else "shared" if c.get("rel_pos_shared") else "none"
    probe, kind = c.get("probe", "none"), "sincos_cae" if "pos_embed" in case.weights else "none"
    config, classes = settings(case, relative_bias=tables, positions=kind), int(c["classes"])
    if probe == "attentive":
        backbone = under("backbone/params", encoder(ours="") + same(SHARED, "relative_bias/table"))
        head = AttentiveProbe(classes, config.heads, config.layer_norm_eps, config.qkv_bias)
        names = (*backbone, *under("probe", PROBE))
        return attentive_probe.run(case, Vit(config), head, fixed(config, names, COUNTER))
    if probe not in ("none", "standard"):
        raise VerifyError(f"{case.folder}: config.probe '{probe}' is not none, standard or attentive")
    model = Classifier(config, classes, "mean" if c["mean_pooling"] else "cls")
    return finetune.run(case, model, classifier_layout(config))


SYSTEM = System(
    upstream="Atten4Vis/CAE",
    kinds={"pretrain": lambda case: pretrain.run(case, pretraining(case)), "finetune": run_finetune},
    references=(mask_statistics.reference(mask_statistics.blocks(exact=True)),),
)


def shows(arrays: Arrays) -> dict[str, Any]:
    """Sizes of encoder, regressor and decoder."""
    depths = {
        "regresser.regressor_blocks.": "method.regressor_depth",
        "decoder.decoder_blocks.": "method.decoder_depth",
    }
    widths = {"regresser.regressor_blocks.0.cross_attn.q.weight": "method.decoder_width"}
    return authors.vit_shows(arrays, "encoder.") | authors.sizes_show(arrays, widths, depths)


def encoder_refusal(method: Method) -> str:
    """What the authors' encoder cannot be; where the grid is no square, they number its patches in their own way."""
    square = isinstance(method.model, VitConfig) and method.model.grid[0] == method.model.grid[1]
    fixed = ("sincos_cae", "sincos_row") if square else ("sincos_cae",)
    return authors.vit_needs(method.model, {**authors.BEIT, "positions": fixed})


def refusal(method: CAE | CAEv2) -> str:
    """What the authors' network cannot be."""
    return authors.needs(method, {"feed_queries": (True,)}, "method") or encoder_refusal(method)


def is_classifier(arrays: Arrays) -> bool:
    """A fine-tuned network with fixed positions, whose class token has position 0."""
    named = has(arrays, "cls_token", "pos_embed", "head.weight", "blocks.0.attn.qkv.weight")
    return named and "query_token" not in arrays and not arrays["pos_embed"][:, :1].any()


def classifier_settings(arrays: Arrays) -> dict[str, Any]:
    """Classes, pooling, and the switches that fine-tuning has and pretraining has not."""
    model = authors.beit_model(arrays) | {"init": "cae", "positions": "sincos_cae"}
    return {"method": authors.classifier_method(arrays), "model": model}


FORMATS = (
    authors.checkpoint(
        "cae",
        "all",
        accepts=lambda arrays: has(
            arrays, "mask_token", "rd_pos_embed", "regresser.regressor_blocks.0.cross_attn.q.weight"
        ),
        shows=shows,
        layout=layout,
        refusal=refusal,
        buffers=buffers,
        methods=("cae", "cae_v2"),
    ),
    authors.checkpoint(
        "cae",
        "encoder",
        accepts=lambda arrays: has(arrays, "encoder.patch_embed.proj.weight", "encoder.pos_embed"),
        shows=lambda arrays: authors.vit_shows(arrays, "encoder."),
        layout=lambda method: authors.encoder_alone(layout(method), OTHERS),
        refusal=encoder_refusal,
        methods=("cae", "cae_v2"),
    ),
    authors.checkpoint(
        "cae",
        "classifier",
        accepts=is_classifier,
        shows=authors.vit_shows,
        layout=lambda method: classifier_layout(method.model),
        refusal=encoder_refusal,
        settings=classifier_settings,
    ),
)
