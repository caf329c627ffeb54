"""baaivision/EVA, EVA-02/asuka: names of the arrays, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.positions import relative_indices
from mim_jax.interop.rules import PATCHES, dense, eva_block, norm, same, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import beit_settings, masked_rows, patch_sizes, vit_config
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Output
from mim_jax.methods.eva02 import EVA02
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.rotary import rotary_table, rotate

ABSENT = ("use_rel_pos_bias", "use_shared_decoupled_rel_pos_bias", "postnorm", "deepnorm")  # switches never used
NEITHER = ("xattn", "batch", "num_masked", "weight_noise")  # do not change what is computed
GATES = {"naiveswiglu": ("mlp.w1", "mlp.w2"), "swiglu": ("mlp.w12",)}


def layout(config: VitConfig, gates: tuple[str, ...]) -> Layout:
    """The pretrained network; rotary tables are stored once more in every block."""
    out = "mlp.fc2" if config.mlp == "mlp" else "mlp.w3"
    rules = (
        *(rule for name in ("cls_token", "mask_token", "pos_embed") for rule in same(name, f"encoder/{name}")),
        *same("rel_pos_bias.relative_position_bias_table", "encoder/relative_bias/table"),
        *dense("patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
        *eva_block("blocks.{i}", "encoder/blocks_{i}", separate=config.mlp_norm, gates=gates, out=out),
        *norm("norm", "encoder/norm"),
        *dense("lm_head", "head"),
    )
    tables = relative_indices(config)
    if config.rope:
        turns = dict(zip(("freqs_cos", "freqs_sin"), table(config), strict=True))
        places = ["rope", *(f"blocks.{i}.attn.rope" for i in range(config.depth))]
        tables |= {f"{place}.{name}": values for place in places for name, values in turns.items()}
    names = NameMap(under("params", rules), dict.fromkeys(tables, "computed, not stored"), absent=authors.TEACHER)
    return Layout(names, patch_sizes(config), tables)


def table(config: VitConfig) -> np.ndarray:
    """Cosines and sines of every patch."""
    return np.asarray(rotary_table(config.grid, config.width // config.heads, config.rope))


def pretraining(case: Case) -> Subject:
    """EVA-02 as a case asks for it, with the teacher's features as the case gives them."""
    c = case.config
    for key in (*ABSENT, *NEITHER):
        if c.get(key) and key in ABSENT:
            raise VerifyError(f"{case.folder}: config.{key} {c[key]} is not part of EVA's published models")
    gates: tuple[str, ...] = ("mlp.fc1",)
    for key, names in GATES.items():
        gates = names if c.get(key) else gates
    beit, subln = beit_settings(case), bool(c["subln"])
    settings = {key: beit[key] for key in ("qkv_bias", "layer_scale", "positions", "relative_bias")}
    settings |= dict(init="eva02" if c["xavier_normal_init"] else "eva01", mlp_norm=subln)
    settings |= dict(patch_gradient=0.1 if c["stop_grad_conv1"] else 1.0)
    plain = vit_config(case, **settings, mlp="mlp" if gates == ("mlp.fc1",) else "swiglu_exact")
    if c["rope"] and plain.grid[0] != plain.grid[1]:
        raise VerifyError(f"{case.folder}: the original's rotary positions are for square grids, not {plain.grid}")
    model = dataclasses.replace(plain, rope=plain.grid[0] if c["rope"] else 0)
    teacher = dict(image_size=model.image_size, channels=model.channels, patch_size=model.patch_size, depth=1)
    teacher |= dict(width=c["teacher_dim"], heads=1, positions="learned")
    section = dict(
        teacher=dict(model=teacher, mean=(0.0,) * model.channels, std=(1.0,) * model.channels),
        num_mask_patches=model.tokens - 1,
        min_block=1,
    )
    method = EVA02.from_config(dataclasses.asdict(model), section)

    def inputs(arrays: Mapping[str, Any]):
        hidden = jnp.asarray(np.asarray(arrays["mask"]) > 0).reshape(-1, model.tokens)
        batch = {"image": jnp.asarray(arrays["images"]), "teacher": jnp.asarray(arrays["teacher_features"])}
        return batch, {"mask": Mask(hidden, grid=model.grid), "drop_path": None}

    def outputs(output: Output) -> dict[str, Any]:
        t = output.trace
        found = dict(features=t["latent"], block_outputs=jnp.stack(t["states"]))
        found |= dict(pred=masked_rows(t["pred"], t["counted"]), loss=output.terms["cosine"] - 1.0)
        return found | (dict(zip(("rope_cos", "rope_sin"), table(model), strict=True)) if model.rope else {})

    return Subject(method, layout(model, gates), inputs, outputs)


def run_mim(case: Case) -> Result:
    return pretrain.run(case, pretraining(case))


def run_rope(case: Case) -> Result:
    """The rotary table of a square grid, and queries turned by it."""
    c, tokens = case.config, jnp.asarray(case.inputs["tokens"])
    side = int(c["ft_seq_len"])
    turns = jnp.asarray(rotary_table((side, side), 2 * int(c["dim"]), int(c["pt_seq_len"])))
    if tokens.shape[-2:] != turns.shape[1:]:
        raise VerifyError(f"{case.folder}: tokens {tokens.shape[-2:]} do not fit {side} x {side} and dim {c['dim']}")
    return Result(arrays=dict(rope_cos=turns[0], rope_sin=turns[1], rotated=rotate(tokens, turns[:, None])))


SYSTEM = System(upstream="baaivision/EVA", kinds={"mim": run_mim, "rope": run_rope})
