"""microsoft/SimMIM and microsoft/Swin-Transformer: names of the arrays, checkpoints, and how reference cases read."""

from __future__ import annotations

import dataclasses
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
from mim_jax.interop.kinds import finetune, pretrain, train
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import relative_indices
from mim_jax.interop.references import mask_statistics
from mim_jax.interop.references.param_groups import group_rows
from mim_jax.interop.rules import PATCHES, beit_block, dense, norm, same, under
from mim_jax.interop.swin_case import swin_config, swin_rules, swin_shows, swin_tables
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import beit_settings, vit_config
from mim_jax.masking.mask import Mask
from mim_jax.masking.units import unit_grid, unit_mask
from mim_jax.methods.base import Method, Output, ParamGroups, Variables
from mim_jax.methods.finetune import Finetune
from mim_jax.methods.hierarchical import last_tokens, swin_finetune_groups
from mim_jax.methods.simmim import VIT, SimMIM
from mim_jax.methods.transformers import vit_groups
from mim_jax.models.classifier import Classifier
from mim_jax.models.swin import SwinClassifier
from mim_jax.models.swin_config import ARCHS, SwinConfig
from mim_jax.models.vit_config import VitConfig
from mim_jax.targets.local_norm import local_norm

Encoder = VitConfig | SwinConfig

OTHERS = r"^(decoder\.|encoder\.mask_token$)"  # than the encoder, in a pretrained network
HEAD = (Rule(("decoder.0.weight",), ("head/kernel",), "o i 1 1 -> i o"), *same("decoder.0.bias", "head/bias"))
FIXED = "computed from the sizes of the model, not stored"


def vit_rules(prefix: str = "") -> tuple[Rule, ...]:
    """Their vision transformer; `prefix` is `encoder.` in pretraining."""
    return (
        *same(f"{prefix}cls_token", "encoder/cls_token"),
        *same(f"{prefix}mask_token", "encoder/mask_token"),
        *same(f"{prefix}pos_embed", "encoder/pos_embed"),
        *same(f"{prefix}rel_pos_bias.relative_position_bias_table", "encoder/relative_bias/table"),
        *dense(f"{prefix}patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
        *beit_block(f"{prefix}blocks.{{i}}", "encoder/blocks_{i}"),
        *norm(f"{prefix}norm", "encoder/norm"),
    )


def layout(config: Encoder, rest: tuple[Rule, ...], prefix: str = "") -> Layout:
    """Names and fixed arrays of an encoder and of what follows it."""
    if isinstance(config, VitConfig):
        rules, fixed = vit_rules(prefix), relative_indices(config, prefix)
    else:
        rules, fixed = swin_rules(prefix), swin_tables(config, prefix)
    names = NameMap(rules=under("params", (*rules, *rest)), computed=dict.fromkeys(fixed, FIXED))
    sizes = dict(zip("pqc", (*config.patch_size, config.channels), strict=True))
    return Layout(names, sizes, fixed)


def pretrain_layout(method: SimMIM) -> Layout:
    """The pretrained network."""
    return layout(method.model, HEAD, "encoder.")


def classifier_layout(config: Encoder) -> Layout:
    """The fine-tuned network; a vision transformer has a norm between encoder and head."""
    own = () if isinstance(config, SwinConfig) else norm("fc_norm", "fc_norm")
    return layout(config, (*own, *dense("head", "head")))


def encoder_config(case: Case) -> Encoder:
    """The encoder that a case asks for.

    Raises:
        VerifyError: an unknown one, or settings that the case's arrays contradict.
    """
    arch = case.config.get("arch", "vit")
    if arch == "vit":
        return vit_config(case, **beit_settings(case))
    if arch not in ARCHS:
        raise VerifyError(f"{case.folder}: config.arch '{arch}' is not one of vit, {', '.join(ARCHS)}")
    return swin_config(case, arch)


def pretraining(case: Case) -> Subject:
    """SimMIM as a case asks for it; the case says which patches are hidden.

    Raises:
        VerifyError: a stride that is not the encoder's, or a mask of another shape.
    """
    c, model = case.config, encoder_config(case)
    section = dict(
        mask_ratio=c["mask_ratio"],
        mask_unit=c["mask_patch_size"],
        target="local_norm" if c.get("norm_target") else "pixel",
        target_window=c.get("norm_target_window", 47),
    )
    arch = {} if isinstance(model, SwinConfig) else {"arch": "vit"}
    method = SimMIM.from_config({**dataclasses.asdict(model), **arch}, section)
    grid, stride, width = last_tokens(model)
    if pair(c["encoder_stride"], "encoder_stride") != stride:
        raise VerifyError(f"{case.folder}: encoder_stride {c['encoder_stride']}, but the encoder's is {stride}")

    def inputs(arrays: Mapping[str, Any]):
        hidden = np.asarray(arrays["mask"]) > 0
        if hidden.shape[1:] != model.grid:
            raise VerifyError(f"{case.folder}: a mask of {hidden.shape[1:]} patches for a grid of {model.grid}")
        mask = Mask(jnp.asarray(hidden.reshape(len(hidden), -1)), grid=model.grid)
        return {"image": jnp.asarray(arrays["images"])}, {"mask": mask, "drop_path": None}

    def outputs(output: Output) -> dict[str, Any]:
        features = output.trace["latent"].reshape(-1, *grid, width)
        return {"features": features, **{name: output.trace[name] for name in ("reconstruction", "target")}}

    return Subject(method, pretrain_layout(method), inputs, outputs)


def run_norm_targets(case: Case) -> Result:
    """Locally normalised images."""
    return Result(arrays={"target": local_norm(jnp.asarray(case.inputs["images"]), int(case.config["window"]))})


def run_finetune(case: Case) -> Result:
    """A classifier on either family of encoders."""
    config = encoder_config(case)
    return finetune.run(case, classifier(config, int(case.config["classes"])), classifier_layout(config))


def classifier(config: Encoder, classes: int) -> Any:
    """What fine-tuning trains."""
    return SwinClassifier(config, classes) if isinstance(config, SwinConfig) else Classifier(config, classes)


def draw_units(key: jax.Array, count: int, config: Mapping[str, Any]) -> Any:
    """Masks as a file of statistics asks for them, (N, h, w)."""
    size, patch = pair(config["input_size"], "input_size"), pair(config["model_patch_size"], "model_patch_size")
    grid, units = (size[0] // patch[0], size[1] // patch[1]), unit_grid(size, patch, int(config["mask_patch_size"]))
    mask = jax.jit(lambda key: unit_mask(key, count, units, grid, config["mask_ratio"]).hidden)(key)
    return mask.reshape(count, *grid)


def small(arch: str, blocks: Any, finetuning: bool) -> Encoder:
    """An encoder of `blocks` with small widths, which play no part in the groups."""
    if arch == "vit":
        kind = {**VIT, "relative_bias": "per_block" if finetuning else "shared"}
        return VitConfig((8, 8), 3, (4, 4), width=4, depth=int(blocks), heads=1, **kind)
    side = 2 ** len(blocks)
    return SwinConfig(arch, (side, side), 3, (2, 2), 4, tuple(blocks), (1,) * len(blocks), window_size=1)


def parameter_groups(content: Mapping[str, Any]) -> list[Row]:
    """Weight decay of pretraining, weight decay and layer decay of fine-tuning, parameter by parameter."""
    rows, key = [], jax.random.key(0)
    for entry in content["models"]:
        arch, blocks = entry["arch"], entry["blocks"]
        decays = {k: {"weight_decay": v} for k, v in entry["pretraining: parameter -> weight decay"].items()}
        tuned = entry["fine-tuning: parameter -> lr scale, weight decay"]
        settings = {"weight_decay": max(v["weight_decay"] for v in decays.values())}

        model = small(arch, blocks, finetuning=False)
        method = SimMIM(model, mask_unit=2)
        image = {"image": jnp.zeros((1, *model.image_size, 3))}
        like = Variables(params=jax.eval_shape(method.init, key, image).params)
        rows += group_rows(
            f"{arch}, pretraining", decays, settings, pretrain_layout(method), like, method.param_groups()
        )
        model = small(arch, blocks, finetuning=True)
        like = jax.eval_shape(classifier(model, 2).init, key, image["image"])
        settings = {**settings, "layer_decay": entry["fine-tuning layer decay"]}
        groups = finetune_groups(model)
        rows += group_rows(f"{arch}, fine-tuning", tuned, settings, classifier_layout(model), like, groups)
    return rows


def finetune_groups(config: Encoder) -> ParamGroups:
    """Their groups of fine-tuning: only Swin's position tables are exempt from decay."""
    if isinstance(config, SwinConfig):
        return swin_finetune_groups(config.depths)
    return dataclasses.replace(vit_groups(config.depth), no_decay=(r"encoder/(cls_token|pos_embed)$",))


def is_parameter_groups(content: Mapping[str, Any]) -> bool:
    models = content.get("models")
    return isinstance(models, list) and all(isinstance(m, dict) and "fine-tuning layer decay" in m for m in models)


SYSTEM = System(
    upstream="microsoft/SimMIM",
    kinds={
        "pretrain": lambda case: pretrain.run(case, pretraining(case)),
        "train": lambda case: train.run(case, pretraining(case)),
        "finetune": run_finetune,
        "norm_targets": run_norm_targets,
    },
    references=((is_parameter_groups, parameter_groups), mask_statistics.reference(draw_units)),
)


def shows(arrays: Arrays, prefix: str = "") -> dict[str, Any]:
    """Sizes of either encoder."""
    swin = any(name.startswith(f"{prefix}layers.") for name in arrays)
    return swin_shows(arrays, prefix) if swin else authors.vit_shows(arrays, prefix)


def refusal(method: Method) -> str:
    """What neither of the authors' encoders can be."""
    if isinstance(method.model, SwinConfig):
        return authors.needs(method.model, {"layer_norm_eps": (1e-5,)})
    return authors.vit_needs(method.model, {**authors.BEIT, "positions": ("learned", "none")})


def pretrain_refusal(method: SimMIM) -> str:
    """What the authors' SimMIM cannot be: its head paints squares."""
    rows, columns = last_tokens(method.model)[1]
    return refusal(method) or ("" if rows == columns else f"its patches are squares, not {rows} x {columns}")


def classifier_refusal(method: Finetune) -> str:
    """What the authors' classifiers cannot be: all of them average the tokens."""
    return refusal(method) or authors.needs(method, {"pooling": ("mean",)}, "method")


def is_classifier(arrays: Arrays) -> bool:
    """A fine-tuned network of either family."""
    swin = has(arrays, "layers.0.blocks.0.attn.qkv.weight", "head.weight")
    vit = has(arrays, "cls_token", "blocks.0.attn.qkv.weight", "fc_norm.weight", "head.weight")
    return swin or (vit and "blocks.0.attn.qkv.bias" not in arrays and "pos_embed" not in arrays)


def classifier_settings(arrays: Arrays) -> dict[str, Any]:
    """Classes; and what fine-tuning a vision transformer switches on."""
    if "cls_token" not in arrays:
        return {"method": {"classes": len(arrays["head.weight"])}}
    return {"method": authors.classifier_method(arrays), "model": authors.beit_model(arrays) | {"init": "beit"}}


FORMATS = (
    authors.checkpoint(
        "simmim",
        "all",
        accepts=lambda arrays: has(arrays, "encoder.mask_token", "decoder.0.weight"),
        shows=lambda arrays: shows(arrays, "encoder."),
        layout=pretrain_layout,
        refusal=pretrain_refusal,
        methods=("simmim",),
    ),
    authors.checkpoint(
        "simmim",
        "encoder",
        accepts=lambda arrays: has(arrays, "encoder.patch_embed.proj.weight", "encoder.norm.weight"),
        shows=lambda arrays: shows(arrays, "encoder."),
        layout=lambda method: authors.encoder_alone(pretrain_layout(method), OTHERS),
        refusal=refusal,
        methods=("simmim",),
    ),
    authors.checkpoint(
        "simmim",
        "classifier",
        accepts=is_classifier,
        shows=shows,
        layout=lambda method: classifier_layout(method.model),
        refusal=classifier_refusal,
        settings=classifier_settings,
    ),
)
