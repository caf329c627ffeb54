"""liuxingbin/dbot, both branches: names of the arrays, checkpoints of branch beit, and how their cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.interop import authors, mae_case
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.original import beit
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import dense, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import beit_settings, masked_rows, patch_sizes, setting, vit_config
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Output
from mim_jax.methods.dbot import DBOT
from mim_jax.methods.dbot_beit import DBOTBeit
from mim_jax.nn.positions import sincos_2d


def layout(method: DBOT) -> Layout:
    """Student and teacher of a stage; the teacher's final norm is there whether it is used or not."""
    student = mae_case.backbone("student.") + mae_case.decoder("student.", head="decoder_predp")
    teacher = mae_case.backbone("teacher.", "teacher", final_norm=method.teacher.norm)
    widths = {
        "student.pos_embed": method.model.width,
        "student.decoder_pos_embed": method.decoder_width,
        "teacher.pos_embed": method.teacher.model.width,
    }
    tables = {name: sincos_2d(method.model.grid, width)[None] for name, width in widths.items()}
    unused = {} if method.teacher.norm else {r"^teacher\.norm\.": "a norm that the target does not pass"}
    names = NameMap(under("params", student) + under("frozen", teacher), dict.fromkeys(tables, FIXED), unused)
    return Layout(names, patch_sizes(method.model), tables)


def bootstrapping(case: Case) -> Subject:
    """The main branch as a case asks for it; the case's noise decides which patches are kept."""
    c, model = case.config, vit_config(case)
    setting(case, "batch")
    teacher = dataclasses.asdict(dataclasses.replace(model, depth=c["teacher_depth"]))
    same = dict(mean=(0.0,) * model.channels, std=(1.0,) * model.channels)  # the teacher sees the same tensor
    section = dict(
        mask_ratio=c["mask_ratio"],
        normalize_target=bool(c["norm_feature_loss"]),
        decoder_width=setting(case, "decoder_width", "decoder_embed_dim"),
        decoder_depth=c["decoder_depth"],
        decoder_heads=setting(case, "decoder_heads", "decoder_num_heads"),
        teacher=dict(model=teacher, norm=bool(c["tlayernorm"]), source="of the case", **same),
    )
    method = DBOT.from_config(dataclasses.asdict(model), section)

    def inputs(arrays: Mapping[str, Any]):
        images, mask = jnp.asarray(arrays["images"]), mae_case.masked_by_noise(case, method, arrays)
        return {"image": images, "teacher": images}, {"mask": mask, "drop_path": None, "decoder_drop_path": None}

    def outputs(output: Output) -> dict[str, Any]:
        t = output.trace
        named = dict(pred=t["tokens"], mask=t["counted"], target=t["target_tokens"], target_raw=t["teacher"])
        return mae_case.outputs(output) | named

    return Subject(method, layout(method), inputs, outputs)


def beit_layout(method: DBOTBeit) -> Layout:
    """The network of branch beit, whose head has the name of BEiT's."""
    return beit.layout(method.model, dense("lm_head", "head"))


def pretraining(case: Case) -> Subject:
    """The branch beit as a case asks for it, with the teacher's features as the case gives them."""
    c, model = case.config, vit_config(case, **beit_settings(case))
    for key in ("batch", "num_masked", "weight_noise"):
        c.get(key)
    teacher = dataclasses.asdict(dataclasses.replace(model, width=c["teacher_dim"], heads=1))
    section = dict(
        teacher=dict(model=teacher, mean=(0.0,) * model.channels, std=(1.0,) * model.channels),
        predict_cls=bool(c["recon_cls_token"]),
        num_mask_patches=model.tokens - 1,
        min_block=1,
    )
    method = DBOTBeit.from_config(dataclasses.asdict(model), section)

    def inputs(arrays: Mapping[str, Any]):
        hidden = jnp.asarray(np.asarray(arrays["mask"]) > 0).reshape(-1, model.tokens)
        batch = {"image": jnp.asarray(arrays["images"]), "teacher": jnp.asarray(arrays["target"])}
        return batch, {"mask": Mask(hidden, grid=model.grid), "drop_path": None}

    def outputs(output: Output) -> dict[str, Any]:
        return {"pred": masked_rows(output.trace["pred"], output.trace["counted"]), "features": output.trace["latent"]}

    return Subject(method, beit_layout(method), inputs, outputs)


def run_mae(case: Case) -> Result:
    return pretrain.run(case, bootstrapping(case))


def run_beit(case: Case) -> Result:
    return pretrain.run(case, pretraining(case))


SYSTEM = System(upstream="liuxingbin/dbot", kinds={"mae": run_mae, "beit": run_beit})


def refusal(method: DBOTBeit) -> str:
    """What the authors' network cannot be."""
    return authors.vit_needs(method.model, authors.BEIT)


FORMATS = (
    authors.checkpoint(
        "dbot",
        "all",
        accepts=lambda arrays: has(arrays, "cls_token", "mask_token", "lm_head.weight"),
        shows=authors.vit_shows,
        layout=beit_layout,
        refusal=refusal,
        methods=("dbot_beit",),
    ),
)
