"""open-mmlab/mmpretrain (MFF): names of the arrays, checkpoints, cases."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from mim_jax.interop import mae_case
from mim_jax.interop.case import Case
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.rules import dense, same
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.methods.base import Output
from mim_jax.methods.mff import MFF

WEIGHTS = "backbone.proj_weights"
NAMES = mae_case.mmpretrain(
    *dense("backbone.proj_layers.{i}", "fusion/proj_{i}"),
    *same(WEIGHTS, "fusion/weights"),
)


def layout(method: MFF) -> Layout:
    """The pretrained network and both position tables."""
    return Layout(NAMES, patch_sizes(method.model), mae_case.tables(method, *mae_case.TABLES))


def pretraining(case: Case) -> Subject:
    """MFF as a case asks for it."""
    c = case.config
    model = dataclasses.asdict(vit_config(case, positions="sincos_row"))
    taps = tuple(int(tap) % max(int(c["depth"]), 1) for tap in c["taps"])
    section: dict[str, Any] = dict(taps=taps, decoder_mlp_ratio=float(c.get("decoder_mlp_ratio", 4.0)))
    method = MFF.from_config(model, mae_case.decoder_settings(case) | section)
    return Subject(method, layout(method), mae_case.inputs(case, method), outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases."""
    found = mae_case.outputs(output)
    return found | {"taps": jnp.stack(found["taps"])}


SYSTEM = System(upstream="open-mmlab/mmpretrain", only=lambda case: pretrain.run(case, pretraining(case)))
FORMATS = (mae_case.mmpretrain_checkpoint("mff", layout, own=WEIGHTS),)
