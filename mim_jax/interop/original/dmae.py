"""UCSC-VLAA/DMAE: names of the arrays, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mim_jax.errors import VerifyError
from mim_jax.interop import authors, mae_case
from mim_jax.interop.case import Case, Reading
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import dense, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.methods.base import Output
from mim_jax.methods.dmae import DMAE
from mim_jax.nn.positions import sincos_2d

HEADS = "student.aligned_feature_projection_heads.{i}"
PROJECTIONS = {"fc-1layer": "linear", "mlp-1layer": "mlp", "none": "none", "None": "none"}
LOSSES = {"L1": "l1", "L2": "l2"}
TABLES = ("student.pos_embed", "student.decoder_pos_embed", "teacher.pos_embed")
STUDENT = (
    *mae_case.backbone("student."),
    *mae_case.decoder("student."),
    *dense(HEADS, "align_{i}/linear"),
    *dense(f"{HEADS}.fc1", "align_{i}/fc1"),
    *dense(f"{HEADS}.fc2", "align_{i}/fc2"),
)


def layout(method: DMAE) -> Layout:
    """Student, and the teacher as far as it is run."""
    run = method.taught.encoder.config.depth
    later = "|".join(str(i) for i in range(run, method.teacher.model.depth)) or "none"
    unused = {rf"^teacher\.(norm\.|decoder_|mask_token|blocks\.({later})\.)": "parts behind the last block looked at"}
    rules = (*under("params", STUDENT), *under("frozen", mae_case.backbone("teacher.", "teacher", final_norm=False)))
    teacher = {"teacher.pos_embed": sincos_2d(method.model.grid, method.teacher.model.width)[None]}
    tables = mae_case.tables(method, *TABLES[:2]) | teacher
    used = tuple(rule for rule in rules if "frozen" not in rule.ours[0] or "{i}" not in rule.ours[0])
    blocks = tuple(rule for rule in rules if rule not in used)
    numbered = tuple(
        dataclasses.replace(
            rule,
            theirs=tuple(name.format(i=i) for name in rule.theirs),
            ours=tuple(path.format(i=i) for path in rule.ours),
        )
        for rule in blocks
        for i in range(run)
    )
    names = NameMap((*used, *numbered), computed=dict.fromkeys(TABLES, FIXED), ignored=unused)
    return Layout(names, patch_sizes(method.model), tables)


def sized(case: Case, part: str) -> dict[str, Any]:
    """The encoder that a part of the config asks for, as a section `model`."""
    own = case.config[part]
    shared = {key: case.config[key] for key in case.config if key not in ("student", "teacher")}
    config = Reading({**shared, **own}, f"config.{part} in {case.folder / 'case.json'}")
    return dataclasses.asdict(vit_config(dataclasses.replace(case, config=config)))


def pretraining(case: Case) -> Subject:
    """DMAE as a case asks for it."""
    c = case.config
    projection, loss = PROJECTIONS.get(str(c["projection"])), LOSSES.get(str(c["feature_loss"]))
    if projection is None or loss is None:
        raise VerifyError(
            f"{case.folder}: config.projection '{c['projection']}' is none of {', '.join(PROJECTIONS)}, or "
            f"config.feature_loss '{c['feature_loss']}' none of {', '.join(LOSSES)}"
        )
    channels = int(case.inputs["images"].shape[-1])
    teacher = dict(model=sized(case, "teacher"), mean=(0.5,) * channels, std=(0.5,) * channels)
    section = mae_case.decoder_settings(case, c["student"]) | dict(
        teacher=teacher,
        blocks=tuple(int(i) for i in c["student"]["aligned_blocks"]),
        teacher_blocks=tuple(int(i) for i in c["teacher"]["aligned_blocks"]),
        projection=projection,
        feature_loss=loss,
    )
    method = DMAE.from_config(sized(case, "student"), section)
    return Subject(method, layout(method), mae_case.inputs(case, method), outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases."""
    found: dict[str, Any] = mae_case.outputs(output)
    terms: Mapping[str, Any] = output.terms
    features = [terms[f"features_{i}"] for i in range(len(found["features"]))]
    return found | {
        "loss_pixel": terms["reconstruction"],
        "loss_feature": jnp.stack(features),
        "student_features": jnp.stack(found["features"]),
        "teacher_features": jnp.stack(found["teacher_features"]),
    }


def student_layout(method: DMAE) -> Layout:
    """The student alone, which is what the authors save."""
    names = NameMap(under("params", STUDENT), computed=dict.fromkeys(TABLES[:2], FIXED))
    return Layout(names, patch_sizes(method.model), mae_case.tables(method, *TABLES[:2]))


def state(source: Source) -> Arrays:
    """The arrays of a checkpoint as the cases name them."""
    return {f"student.{name}": array for name, array in authors.network(source).items()}


def refusal(method: DMAE) -> str:
    """What the authors' network cannot be."""
    # The names of the perceptron's layers are of the reference cases' making: the released command has one layer.
    return authors.needs(method, {"projection": ("linear", "none")}, "method") or mae_case.refusal(method)


SYSTEM = System(upstream="UCSC-VLAA/DMAE", only=lambda case: pretrain.run(case, pretraining(case)))
FORMATS = (
    authors.checkpoint(
        "dmae",
        "all",
        accepts=lambda arrays: authors.has(arrays, "student.cls_token", "student.decoder_pred.weight"),
        shows=lambda arrays: mae_case.shows(arrays, "student."),
        layout=student_layout,
        refusal=refusal,
        state=state,
        nest=lambda arrays: {"model": authors.below(arrays, "student.")},
        methods=("dmae",),
    ),
)
