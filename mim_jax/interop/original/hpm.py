"""Haochen-Wang409/HPM: names of the arrays, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors, mae_case
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import dense, norm, same, timm_block, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.masking.hard import hard_counts, hard_mask
from mim_jax.masking.mask import Mask, gather_tokens, mask_from_hidden
from mim_jax.masking.random import visible_count
from mim_jax.methods.base import Output
from mim_jax.methods.hpm import HPM

FEATURES = ("features", "feature_target", "teacher_features", "target_features")  # an input with what is predicted
PARTS = {"": "reconstructor", "_losspred": "predictor"}
NAMES = NameMap(
    rules=under(
        "params",
        (
            *mae_case.backbone(),
            *dense("decoder_embed", "decoder/embed"),
            *same("mask_token", "decoder/mask_token"),
            *(
                rule
                for end, ours in PARTS.items()
                for rule in (
                    *timm_block(f"decoder_blocks{end}.{{i}}", f"decoder/{ours}/blocks_{{i}}"),
                    *norm(f"decoder_norm{end}", f"decoder/{ours}/norm"),
                    *dense(f"decoder_pred{end}", f"decoder/{ours}/head"),
                )
            ),
        ),
    ),
    computed={"pos_embed": FIXED, "decoder_pos_embed": FIXED},
    absent={"^extra/": "the moving average, which starts as a copy", "^frozen/": "a teacher's tokens are given"},
)


def layout(method: HPM) -> Layout:
    """The pretrained network and both position tables."""
    return Layout(NAMES, patch_sizes(method.model), mae_case.tables(method))


def pretraining(case: Case) -> Subject:
    """HPM as a case asks for it: the mask is given, and so are a teacher's features where they are predicted."""
    c, model = case.config, dataclasses.asdict(vit_config(case))
    section = {key: value for key, value in mae_case.decoder_settings(case).items() if key != "target"}
    features = next((name for name in FEATURES if name in case.inputs), "")
    if c["target"] not in ("pixel", *FEATURES, "feature") or (c["target"] != "pixel") != bool(features):
        raise VerifyError(
            f"{case.folder}: config.target '{c['target']}' is neither 'pixel' nor 'feature' with the input 'features'"
        )
    if features:
        teacher = {**model, "projection": int(case.inputs[features].shape[-1])}
        section |= dict(target="teacher", teacher=dict(model=teacher))
    else:
        section["target"] = "norm_pix" if c["norm_pix_loss"] else "pixel"
    section["predictor_loss"] = "relative" if c["relative"] else "absolute"
    method = HPM.from_config(model, section)

    def inputs(arrays: Mapping[str, Any]):
        hidden = jnp.asarray(arrays["mask"]) > 0
        counts = set(np.asarray(hidden.sum(1)).tolist())
        if hidden.shape[1:] != (method.model.tokens,) or len(counts) != 1:
            raise VerifyError(f"{case.folder}: mask of shape {hidden.shape} does not hide the same count everywhere")
        batch = {"image": jnp.asarray(arrays["images"])}
        if features:
            batch["teacher"] = jnp.pad(jnp.asarray(arrays[features]), ((0, 0), (1, 0), (0, 0)))  # no cls token
        return batch, {"mask": mask_from_hidden(hidden, counts.pop(), method.model.grid), "drop_path": None}

    return Subject(method, layout(method), inputs, outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases; hidden patches in raster order."""
    t = output.trace
    mask: Mask = t["mask"]
    return {
        "loss_reconstruction": output.terms["reconstruction"],
        "loss_predictor": output.terms["predictor"],
        "pred": gather_tokens(t["pred"], mask.masked),
        "predicted_loss": gather_tokens(t["scores"], mask.masked),
        "predicted_loss_visible": gather_tokens(t["scores"], mask.visible),
        "loss_per_patch": gather_tokens(t["loss_per_patch"], mask.masked),
        "latent": t["latent"],
    }


def run_pretraining(case: Case) -> Result:
    subject = pretraining(case)
    result = pretrain.run(case, subject)
    batch, _ = subject.inputs(case.inputs)
    variables = subject.variables(case, batch)
    result.arrays["scores_full_image"] = subject.method.whole(variables.params, batch["image"])[1]  # type: ignore[attr-defined]
    return result


def run_mask(case: Case) -> Result:
    """Masks from given scores: the order of the shuffle, or in the first epochs the noise, is given too."""
    c, scores = case.config, jnp.asarray(case.inputs["scores"])
    tokens = int(c["patches"])
    if scores.shape[1:] != (tokens,):
        raise VerifyError(f"{case.folder}: scores of shape {scores.shape}, but config.patches {tokens}")
    visible = visible_count(tokens, float(c["mask_ratio"]))
    counts = hard_counts(tokens - visible, int(c["total_epochs"]))
    epoch = int(c["epoch"])
    if not 0 <= epoch < len(counts):
        raise VerifyError(f"{case.folder}: config.epoch {epoch} is not one of the {len(counts)} epochs")
    hard = counts[epoch]
    if hard:
        order = np.asarray(case.inputs["order"])
        noise = np.zeros(scores.shape, np.float32)
        np.put_along_axis(noise, order, np.broadcast_to(np.arange(order.shape[1], dtype=np.float32), order.shape), 1)
    else:
        noise = np.asarray(case.inputs["noise"])
    mask = hard_mask(scores, jnp.asarray(noise), jnp.asarray(hard), visible, (1, tokens))
    arrays = {"mask": mask.hidden, "n_hard": np.asarray(hard), "n_hard_per_epoch": np.asarray(counts)}
    return Result(arrays=arrays)


SYSTEM = System(upstream="Haochen-Wang409/HPM", kinds={"pretrain": run_pretraining, "mask": run_mask})

SIDES = {"state_dict.": "params", "ema_state_dict.": "extra/teacher"}


def file_layout(method: HPM) -> Layout:
    """Network and moving average of a checkpoint, with the position tables of either."""
    rules: list[Rule] = []
    for side, ours in SIDES.items():
        for rule in NAMES.rules:
            paths = tuple(path.replace("params", ours, 1) for path in rule.ours)
            rules.append(dataclasses.replace(rule, theirs=tuple(side + name for name in rule.theirs), ours=paths))
    tables = {side + name: table for side in SIDES for name, table in mae_case.tables(method).items()}
    return Layout(NameMap(tuple(rules), computed=dict.fromkeys(tables, FIXED)), patch_sizes(method.model), tables)


def nest(arrays: Arrays) -> dict[str, Any]:
    """As the authors save it: the network wrapped for parallel training, its moving average not."""
    network, average = (authors.below(arrays, side) for side in SIDES)
    return {"state_dict": {f"module.{name}": x for name, x in network.items()}, "ema_state_dict": average}


FORMATS = (
    authors.checkpoint(
        "hpm",
        "all",
        accepts=lambda arrays: authors.has(
            arrays, "state_dict.decoder_pred_losspred.weight", "ema_state_dict.cls_token"
        ),
        shows=lambda arrays: mae_case.shows(arrays, "state_dict."),
        layout=file_layout,
        refusal=mae_case.refusal,
        state=authors.networks,
        nest=nest,
        methods=("hpm",),
    ),
)
