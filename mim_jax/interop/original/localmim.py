"""Haoqing-Wang/LocalMIM, folder ViT: names of the arrays and cases."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.interop import mae_case
from mim_jax.interop.case import Case
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import dense, norm, same, timm_block, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.methods.base import Output
from mim_jax.methods.localmim import DOUBLINGS, LocalMIM
from mim_jax.nn.positions import sincos_2d
from mim_jax.targets.hog import SOBEL

TAPS = range(len(DOUBLINGS))
POINTWISE = "o i 1 1 -> i o"
DOUBLED = "i o y x -> i (y x o)"


def decoder(tap: int) -> tuple[Rule, ...]:
    """Embedding, blocks and norm, and the layers by which the scale changes, counted as the authors' list counts."""
    theirs, ours, doublings = f"decoder.{tap}", f"decoder_{tap}", DOUBLINGS[tap]
    rules: tuple[Rule, ...] = (
        *dense(f"{theirs}.embed", f"{ours}/embed"),
        *same(f"{theirs}.mask_token", f"{ours}/mask_token"),
        *timm_block(f"{theirs}.blocks.{{i}}", f"{ours}/blocks_{{i}}"),
        *norm(f"{theirs}.norm", f"{ours}/norm"),
    )
    for i in range(max(doublings, 0)):
        rules += norm(f"{theirs}.pred.{3 * i - 2}", f"{ours}/up_norm_{i}") if i else ()
        rules += dense(f"{theirs}.pred.{3 * i}", f"{ours}/up_{i}", DOUBLED)
    last = {2: 4, 1: 1, 0: 0, -1: 1}[doublings]
    return rules + dense(f"{theirs}.pred.{last}", f"{ours}/head", POINTWISE)


def layout(method: LocalMIM) -> Layout:
    """The pretrained network, the position tables and the kernels by which gradients are taken."""
    rules = mae_case.backbone(final_norm=False)
    rules += tuple(rule for tap in TAPS for rule in (*norm(f"norm.{tap}", f"norms/norm_{tap}"), *decoder(tap)))
    tables: dict[str, Any] = {"pos_embed": sincos_2d(method.model.grid, method.model.width, method.model.prefix)[None]}
    kernels = np.stack([np.asarray(SOBEL, np.float32), np.asarray(SOBEL, np.float32).T])[:, None]
    for tap in TAPS:
        tables[f"decoder.{tap}.pos_embed"] = sincos_2d(method.model.grid, method.decoder_width, method.model.prefix)[
            None
        ]
        tables[f"hog_enc.{tap}.conv.weight"] = kernels
    biases = (Rule(tuple(f"hog_enc.{tap}.conv.bias" for tap in TAPS), ("frozen/hog_bias",)),) if method.hog_bias else ()
    return Layout(
        NameMap(rules=under("params", rules) + biases, computed=dict.fromkeys(tables, FIXED)),
        {**patch_sizes(method.model), "y": 2, "x": 2},
        tables,
    )


def pretraining(case: Case) -> Subject:
    """LocalMIM as a case asks for it."""
    c = case.config
    section: dict[str, Any] = mae_case.decoder_sizes(case) | dict(
        mask_ratio=c["mask_ratio"], hog_bins=int(c["hog_nbins"]), hog_bias=bool(c["hog_bias"])
    )
    method = LocalMIM.from_config(dataclasses.asdict(vit_config(case)), section)
    return Subject(method, layout(method), mae_case.inputs(case, method), outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases."""
    found = mae_case.outputs(output)
    shares = {f"mask{tap}": found[f"share{tap}"] for tap in TAPS}
    return found | shares | {"loss_per_tap": jnp.stack(list(output.terms.values()))}


SYSTEM = System(upstream="Haoqing-Wang/LocalMIM", only=lambda case: pretrain.run(case, pretraining(case)))
