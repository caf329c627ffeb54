"""transformers' BeitForMaskedImageModeling: encoder, mask token and the head that predicts words; no tokenizer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.interop.format import Format, Probe
from mim_jax.interop.huggingface import beit, common
from mim_jax.interop.rules import dense, norm, same
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.torch_side import module
from mim_jax.methods.base import Variables
from mim_jax.methods.beit import BEiT
from mim_jax.models.vit_config import VitConfig


def layout(method: BEiT, names: Collection[str]) -> Layout:
    """`Format.layout` of BeitForMaskedImageModeling."""
    token = same("beit.embeddings.mask_token", "encoder/mask_token")
    rest = (*token, *norm("layernorm", "encoder/norm"), *dense("lm_head", "head"))
    return beit.whole(method, names, "beit.", rest, {}, False)


def settings(source: Source) -> dict[str, Any]:
    """`Format.settings` of BeitForMaskedImageModeling; of the tokenizer, the number of words and the grid."""
    beit.check_norms(source)
    common.need(source, "vocab_size")
    c, model = source.config, beit.sizes(source)
    grid = VitConfig.from_section(model).grid
    tokenizer = dict(vocabulary=c["vocab_size"], image_size=tuple(8 * side for side in grid))
    kept = {key: c[key] for key in ("num_mask_patches", "min_block") if key in c}  # ours, as `config` writes them
    return {"model": model, "method": {"tokenizer": tokenizer} | kept, "data": common.pixels(source)}


def config(method: BEiT) -> dict[str, Any]:
    """`Format.config`; with `use_mean_pooling` the head's norm is the only one."""
    own = dict(use_mask_token=True, use_mean_pooling=True, vocab_size=method.tokenizer.vocabulary)
    ours = dict(num_mask_patches=method.num_mask_patches, min_block=method.min_block)
    return beit.config(beit.FAMILIES[0], "BeitForMaskedImageModeling", **own, **ours)(method)


def hidden_patches(count: int, tokens: int) -> np.ndarray:
    """Which patches are hidden, the same on both sides."""
    return np.random.default_rng(0).random((count, tokens)) < 0.4


def theirs(source: Source) -> Probe:
    """Blocks and logits of BeitForMaskedImageModeling for hidden patches."""
    torch, model = module("torch"), common.load(source, "BeitForMaskedImageModeling")

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        tokens = model.beit.embeddings.patch_embeddings.num_patches
        hidden = torch.from_numpy(hidden_patches(len(images), tokens))
        return common.named_outputs(common.call(model, images, bool_masked_pos=hidden))

    return run


def ours(method: BEiT, variables: Variables, images: Any) -> dict[str, Any]:
    """Ours for the same hidden patches; the tokenizer plays no part."""
    encoder, head = method.modules()
    hidden = jnp.asarray(hidden_patches(len(images), method.model.tokens))

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        latent, layers = encoder.apply({"params": params["encoder"]}, x, hidden=hidden, layers=True)
        return layers, head.apply({"params": params["head"]}, latent[:, method.model.prefix :])

    layers, logits = run(variables.params, jnp.asarray(images))
    return {**{f"block {i + 1}": layer for i, layer in enumerate(layers)}, "logits": logits}


FORMATS = (
    Format(
        "BeitForMaskedImageModeling",
        "all",
        accepts=common.is_class("BeitForMaskedImageModeling"),
        settings=settings,
        refusal=beit.refusal,
        layout=layout,
        config=config,
        theirs=theirs,
        ours=ours,
        methods=("beit",),
    ),
)
