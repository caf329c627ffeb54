"""transformers' ViTMAEForPreTraining: names of the arrays, of which there are three spellings.

Files on the hub have the names of transformers 4. Since 5 the modules have other names, and files that 5 saves keep
the old names in the encoder but put the decoder's blocks elsewhere. All three hold the same arrays.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop.format import Format, Probe
from mim_jax.interop.huggingface import common
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import PATCHES, dense, fused, norm, same, under
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.torch_side import module
from mim_jax.interop.vit_case import patch_sizes
from mim_jax.masking.mask import mask_from_noise
from mim_jax.masking.random import visible_count
from mim_jax.methods.base import Progress, Variables
from mim_jax.methods.mae import MAE
from mim_jax.nn.positions import sincos_2d

OLD_BLOCK = {
    "qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "proj": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
NEW_BLOCK = {
    "qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "proj": "attention.o_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
SPELLINGS = {  # where the encoder's and the decoder's blocks are, and what is in a block
    "hub": ("vit.encoder.layer", "decoder.decoder_layers", OLD_BLOCK),
    "saved by transformers 5": ("vit.encoder.layer", "decoder.decoder_encoder.layer", OLD_BLOCK),
    "modules of transformers 5": ("vit.layers", "decoder.decoder_layers", NEW_BLOCK),
}


def block(theirs: str, ours: str, names: dict) -> tuple[Rule, ...]:
    """One transformer block; query, key and value are separate on their side and fused on ours."""
    return (
        *norm(f"{theirs}.layernorm_before", f"{ours}/norm1"),
        *fused(tuple(f"{theirs}.{name}" for name in names["qkv"]), f"{ours}/attn/qkv"),
        *dense(f"{theirs}.{names['proj']}", f"{ours}/attn/proj"),
        *norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
        *dense(f"{theirs}.{names['fc1']}", f"{ours}/mlp/fc1"),
        *dense(f"{theirs}.{names['fc2']}", f"{ours}/mlp/fc2"),
    )


def name_map(spelling: str) -> NameMap:
    """The map for one of SPELLINGS; the tree is `Variables` of MAE."""
    encoder, decoder, names = SPELLINGS[spelling]
    rules = (
        *same("vit.embeddings.cls_token", "encoder/cls_token"),
        *dense("vit.embeddings.patch_embeddings.projection", "encoder/patch_embed/proj", PATCHES),
        *block(f"{encoder}.{{i}}", "encoder/blocks_{i}", names),
        *norm("vit.layernorm", "encoder/norm"),
        *dense("decoder.decoder_embed", "decoder/embed"),
        *same("decoder.mask_token", "decoder/mask_token"),
        *block(f"{decoder}.{{i}}", "decoder/blocks_{i}", names),
        *norm("decoder.decoder_norm", "decoder/norm"),
        *dense("decoder.decoder_pred", "decoder/head"),
    )
    computed = {"vit.embeddings.position_embeddings": FIXED, "decoder.decoder_pos_embed": FIXED}
    return NameMap(rules=under("params", rules), computed=computed)


def spelling_of(names: Collection[str]) -> str:
    """Which of SPELLINGS a file or a model is in, by its blocks.

    Raises:
        VerifyError: none of them.
    """
    for spelling, (encoder, decoder, block_names) in SPELLINGS.items():
        wanted = [f"{encoder}.0.{block_names['fc1']}.weight", f"{decoder}.0.{block_names['fc1']}.weight"]
        if all(name in names for name in wanted):
            return spelling
    raise VerifyError(f"these are no arrays of ViTMAEForPreTraining: they are in no spelling of {', '.join(SPELLINGS)}")


def layout(method: MAE, names: Collection[str]) -> Layout:
    """`Format.layout`; what is written has the names of the hub."""
    spelling = spelling_of(names) if names else "hub"
    own = {"vit.embeddings.position_embeddings": method.model.width, "decoder.decoder_pos_embed": method.decoder_width}
    tables = {name: sincos_2d(method.model.grid, width)[None] for name, width in own.items()}
    return Layout(name_map(spelling), patch_sizes(method.model), tables)


def settings(source: Source) -> dict[str, Any]:
    """Sizes and switches of encoder and decoder, as ViTMAEConfig has them."""
    c = source.config
    model = common.vit_sizes(source) | dict(
        qkv_bias="full" if c.get("qkv_bias", True) else "none",
        positions="sincos",
        cls_token=True,
    )
    method = dict(
        mask_ratio=c.get("mask_ratio", 0.75),
        target="norm_pix" if c.get("norm_pix_loss", False) else "pixel",
        decoder_width=c.get("decoder_hidden_size", 512),
        decoder_depth=c.get("decoder_num_hidden_layers", 8),
        decoder_heads=c.get("decoder_num_attention_heads", 16),
    )
    return {"model": model, "method": method, "data": common.pixels(source)}


def refusal(method: MAE) -> str:
    """What ViTMAE cannot be."""
    c = method.model
    if c.positions != "sincos" or not c.cls_token or c.qkv_bias == "qv" or c.layer_scale or c.relative_bias != "none":
        return "it is a plain vision transformer with a class token and fixed sin-cos positions"
    if method.target not in ("norm_pix", "pixel") or method.masking != "random" or method.encoder_mask_tokens:
        return "it predicts pixels of patches hidden at random, which its encoder does not see"
    return ""


def config(method: MAE) -> dict[str, Any]:
    """ViTMAEConfig as JSON."""
    c = method.model
    return common.vit_config(c, "vit_mae", "ViTMAEForPreTraining") | {
        "qkv_bias": c.qkv_bias == "full",
        "mask_ratio": method.mask_ratio,
        "norm_pix_loss": method.target == "norm_pix",
        "decoder_hidden_size": method.decoder_width,
        "decoder_num_hidden_layers": method.decoder_depth,
        "decoder_num_attention_heads": method.decoder_heads,
        "decoder_intermediate_size": 4 * method.decoder_width,
    }


def noise(count: int, tokens: int) -> np.ndarray:
    """What decides which patches are hidden, the same on both sides."""
    return np.random.default_rng(0).random((count, tokens), dtype=np.float32)


def theirs(source: Source) -> Probe:
    """Loss and prediction of ViTMAEForPreTraining."""
    torch, model = module("torch"), common.load(source, "ViTMAEForPreTraining")

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        tokens = model.vit.embeddings.patch_embeddings.num_patches
        out = common.call(model, images, noise=torch.from_numpy(noise(len(images), tokens)))
        return {"prediction": out.logits.numpy(), "loss": out.loss.numpy()}

    return run


def ours(method: MAE, variables: Variables, images: Any) -> dict[str, Any]:
    """Loss and prediction of ours for the same hidden patches."""
    model = method.model
    hidden = jnp.asarray(noise(len(images), model.tokens))
    mask = mask_from_noise(hidden, visible_count(model.tokens, method.mask_ratio), model.grid)
    draws, progress = {"mask": mask, "drop_path": None}, Progress.at(0, 1, 1)
    forward = jax.jit(lambda params, x: method.forward(params, {}, {}, {"image": x}, draws, progress))
    loss, output = forward(variables.params, jnp.asarray(images))
    return {"prediction": output.trace["pred"], "loss": loss}


FORMATS = (
    Format(
        "ViTMAEForPreTraining",
        "all",
        accepts=common.is_class("ViTMAEForPreTraining"),
        settings=settings,
        refusal=refusal,
        layout=layout,
        config=config,
        theirs=theirs,
        ours=ours,
        methods=("mae",),
    ),
)
