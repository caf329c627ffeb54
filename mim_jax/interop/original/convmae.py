"""Alpha-VL/ConvMAE: names of the arrays, its checkpoints, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mim_jax.interop import authors, mae_case
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.conv_vit_case import ENCODER, STAGES, conv_vit_config, conv_vit_shows, sizes
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.methods.convmae import ConvMAE

NAMES = NameMap(under("params", ENCODER + mae_case.decoder()), dict.fromkeys(("pos_embed", "decoder_pos_embed"), FIXED))


def layout(method: ConvMAE) -> Layout:
    """The pretrained network: encoder, fusion, decoder, and both position tables."""
    return Layout(NAMES, sizes(method.model), mae_case.tables(method))


def pretraining(case: Case) -> Subject:
    """ConvMAE as a case asks for it; the case's noise decides which patches are kept."""
    model = conv_vit_config(case)
    section = mae_case.decoder_settings(case) | {"decoder_mlp_ratio": model.stem_mlp_ratio[0]}
    method = ConvMAE.from_config(dataclasses.asdict(model), section)
    return Subject(method, layout(method), mae_case.inputs(case, method), mae_case.outputs)


def run(case: Case) -> Result:
    """One pass forward and backward, the maps of the stem, and the latents of images whose hidden pixels are noise."""
    subject = pretraining(case)
    result = pretrain.run(case, subject)
    batch, draws = subject.inputs(case.inputs)
    params, mask = subject.variables(case, batch).params["encoder"], draws["mask"]
    method: Any = subject.method
    encode = jax.jit(
        lambda images: method.modules()[0].apply(
            {"params": params}, images, mask.visible, mask.hidden, mutable=["intermediates"]
        )
    )
    images, model = batch["image"], method.model
    maps = encode(images)[1]["intermediates"]
    result.arrays |= {f"stage{i + 1}": jnp.moveaxis(maps[f"stage_{i}"][0], -1, 1) for i in STAGES}
    where = jnp.repeat(jnp.repeat(mask.hidden.reshape(-1, *model.grid), model.patch_size[0], 1), model.patch_size[1], 2)
    noise = jax.random.normal(jax.random.key(0), images.shape)
    result.arrays["latent_leak_check"] = encode(jnp.where(where[..., None], noise, images))[0][0]
    return result


SYSTEM = System(upstream="Alpha-VL/ConvMAE", only=run)


def refusal(method: ConvMAE) -> str:
    """What the authors' network cannot be."""
    own = authors.needs(method, {"target": ("norm_pix", "pixel")}, "method")
    return own or authors.needs(method.model, {"strides": ((4, 2, 2),), "channels": (3,), "layer_norm_eps": (1e-6,)})


def accepts(arrays: Arrays) -> bool:
    """The pretrained network; DMJD's has a predictor besides."""
    own = has(arrays, "patch_embed4.weight", "stage1_output_decode.weight", "decoder_pred.weight")
    return own and "predictor.0.weight" not in arrays


FORMATS = (
    authors.checkpoint(
        "convmae", "all", accepts=accepts, shows=conv_vit_shows, layout=layout, refusal=refusal, methods=("convmae",)
    ),
)
