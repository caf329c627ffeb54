"""OpenDriveLab/maskalign: names of the arrays, its checkpoints, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import PATCHES, dense, norm, same, timm_block, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, setting, vit_config
from mim_jax.losses.layers import layer_weights
from mim_jax.methods.base import Output
from mim_jax.methods.maskalign import MaskAlign
from mim_jax.models.attention_map import Inside
from mim_jax.nn.positions import sincos_2d

NORMALISATION = {"none": "none", "l2": "l2", "whiten": "whiten", "bn": "batch"}
ERROR = {"smoothl1": "smooth_l1", "l2": "l2", "l1": "l1"}
HEAD = {"linear": "linear", "norm_linear": "norm_linear", "mlp": "mlp", "mlp2": "linear_norm_linear"}
ENCODER = (
    *same("cls_token", "encoder/cls_token"),
    *dense("patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
    *timm_block("blocks.{i}", "encoder/blocks_{i}"),
    *norm("norm", "encoder/norm"),
)


def head_rules(kind: str) -> tuple[Rule, ...]:
    """The layers of one head, which the original numbers where there is more than one."""
    theirs, ours = "distill_heads.{i}", "alignment/head_{i}"
    if kind == "linear":
        return dense(theirs, ours)
    if kind == "norm_linear":
        return norm(f"{theirs}.0", f"{ours}_norm") + dense(f"{theirs}.1", ours)
    last = dense(f"{theirs}.2", ours)
    between = norm(f"{theirs}.1", f"{ours}_norm") if kind == "linear_norm_linear" else ()
    return dense(f"{theirs}.0", f"{ours}_hidden") + between + last


def layout(method: MaskAlign) -> Layout:
    """The student, its heads and the matrix that mixes its layers."""
    rules = (*ENCODER, *same("distill_weights", "alignment/mix"), *head_rules(method.head))
    names = NameMap(under("params", rules), computed={"pos_embed": FIXED}, absent=authors.TEACHER)
    table = sincos_2d(method.model.grid, method.model.width)[None]
    return Layout(names, patch_sizes(method.model), {"pos_embed": table})


def choice(case: Case, key: str, values: Mapping[str, str]) -> str:
    """Our word for the value of a setting.

    Raises:
        VerifyError: a value that is none of those known.
    """
    given = case.config[key]
    if given not in values:
        raise VerifyError(f"{case.folder}: config.{key} '{given}' is none of {', '.join(values)}")
    return values[given]


def pretraining(case: Case) -> Subject:
    """MaskAlign as a case asks for it, with the teacher's states and attention as the case gives them."""
    c, model = case.config, vit_config(case)
    teacher = dataclasses.asdict(
        dataclasses.replace(model, width=c["teacher_dim"], depth=c["teacher_depth"], heads=1, positions="learned")
    )
    statistics = dict(mean=(0.0,) * model.channels, std=(1.0,) * model.channels)
    section = dict(
        teacher=dict(model=teacher, **statistics),
        mask_ratio=c["mask_ratio"],
        masking=choice(case, "mask_type", {"attention": "attention", "random": "random"}),
        fusion=choice(case, "fusion_type", {name: name for name in ("linear", "sum", "simple")}),
        target=choice(case, "target_norm", NORMALISATION),
        error=choice(case, "loss_type", ERROR),
        head=choice(case, "head_type", HEAD),
        layer_weights=c["loss_weights"],
    )
    method = MaskAlign.from_config(dataclasses.asdict(model), section)

    def inputs(arrays: Mapping[str, Any]):
        states = jnp.asarray(arrays["teacher_hidden_states"])
        between = [x for state in states[1:] for x in (state, state)]  # after attention: not a target
        seen = Inside((jnp.asarray(arrays["teacher_attention"]),), (states[0], *between))
        if "ids_shuffle" in arrays:
            noise = jnp.argsort(jnp.asarray(arrays["ids_shuffle"]), axis=1).astype(jnp.float32)
            if method.masking == "attention":  # uniform noise whose order is the case's: see `importance_mask`
                noise = jnp.exp(-seen.attention[-1].mean(1)[:, 0, 1:] * (noise + 1))
        else:
            noise = jnp.asarray(arrays["noise"])
        return {"image": jnp.asarray(arrays["images"]), "teacher": seen}, {"noise": noise, "drop_path": None}

    def outputs(output: Output) -> dict[str, Any]:
        t = output.trace
        importance = jnp.asarray(case.inputs["teacher_attention"]).mean(1)[:, 0, 1:]
        return dict(
            importance=importance,
            loss_per_layer=t["loss_per_layer"],
            layer_weights=layer_weights(method.layer_weights, method.teacher.model.depth),
            ids_keep=t["mask"].visible,
            student_hidden=jnp.stack(t["states"]),
            student=t["student"],
            teacher=t["teacher"],
        )

    return Subject(method, layout(method), inputs, outputs)


def run(case: Case) -> Result:
    setting(case, "batch")
    return pretrain.run(case, pretraining(case))


SYSTEM = System(upstream="OpenDriveLab/maskalign", only=run)


def refusal(method: MaskAlign) -> str:
    """What the authors' network cannot be."""
    return authors.vit_needs(method.model, {**authors.PLAIN, "positions": ("sincos",)})


FORMATS = (
    authors.checkpoint(
        "maskalign",
        "all",
        accepts=lambda arrays: (
            has(arrays, "cls_token", "pos_embed", "norm.weight")
            and any(name.startswith("distill_heads.0.") for name in arrays)
        ),
        shows=authors.vit_shows,
        layout=layout,
        refusal=refusal,
        methods=("maskalign",),
    ),
)
