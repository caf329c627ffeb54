"""What cases of MAE and its relatives have in common: names of encoder and decoder, sizes, and masks from noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.case import Case
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import PATCHES, dense, mmpretrain_block, norm, same, timm_block, under
from mim_jax.interop.vit_case import setting
from mim_jax.masking.mask import Mask, mask_from_noise
from mim_jax.masking.random import visible_count
from mim_jax.methods.base import Output
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.nn.positions import sincos_2d


def backbone(theirs: str = "", ours: str = "encoder", final_norm: bool = True) -> tuple[Rule, ...]:
    """The encoder as facebookresearch/mae names it, `theirs` being what its names start with; positions are fixed."""
    return (
        *same(f"{theirs}cls_token", f"{ours}/cls_token"),
        *dense(f"{theirs}patch_embed.proj", f"{ours}/patch_embed/proj", PATCHES),
        *timm_block(f"{theirs}blocks.{{i}}", f"{ours}/blocks_{{i}}"),
        *(norm(f"{theirs}norm", f"{ours}/norm") if final_norm else ()),
    )


def decoder(theirs: str = "", ours: str = "decoder", head: str = "decoder_pred") -> tuple[Rule, ...]:
    """The decoder; head: name of its last layer."""
    return (
        *dense(f"{theirs}decoder_embed", f"{ours}/embed"),
        *same(f"{theirs}mask_token", f"{ours}/mask_token"),
        *timm_block(f"{theirs}decoder_blocks.{{i}}", f"{ours}/blocks_{{i}}"),
        *norm(f"{theirs}decoder_norm", f"{ours}/norm"),
        *dense(f"{theirs}{head}", f"{ours}/head"),
    )


def shows(arrays: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sizes of encoder and decoder in a checkpoint of facebookresearch/mae or of a relative."""
    widths = {f"{prefix}decoder_embed.weight": "method.decoder_width"}
    depths = {f"{prefix}decoder_blocks.": "method.decoder_depth"}
    return authors.vit_shows(dict(arrays), prefix) | authors.sizes_show(dict(arrays), widths, depths)


def refusal(method: MaskedAutoencoder) -> str:
    """What the networks of these relatives cannot be."""
    return authors.vit_needs(method.model, {**authors.PLAIN, "positions": ("sincos",)})


BACKBONE, NECK = "backbone.", "neck."
TABLES = (f"{BACKBONE}pos_embed", f"{NECK}decoder_pos_embed")


def mmpretrain(*more: Rule) -> NameMap:
    """Encoder and decoder as mmpretrain names them, and what a relative of MAE has beside them."""
    rules = (
        *same(f"{BACKBONE}cls_token", "encoder/cls_token"),
        *dense(f"{BACKBONE}patch_embed.projection", "encoder/patch_embed/proj", PATCHES),
        *mmpretrain_block(f"{BACKBONE}layers.{{i}}", "encoder/blocks_{i}"),
        *norm(f"{BACKBONE}ln1", "encoder/norm"),
        *dense(f"{NECK}decoder_embed", "decoder/embed"),
        *same(f"{NECK}mask_token", "decoder/mask_token"),
        *mmpretrain_block(f"{NECK}decoder_blocks.{{i}}", "decoder/blocks_{i}"),
        *norm(f"{NECK}ln1", "decoder/norm"),
        *dense(f"{NECK}decoder_pred", "decoder/head"),
        *more,
    )
    return NameMap(rules=under("params", rules), computed=dict.fromkeys(TABLES, FIXED))


def mmpretrain_shows(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of encoder and decoder in a checkpoint of mmpretrain."""
    sides = authors.shape(dict(arrays), f"{BACKBONE}patch_embed.projection.weight", 4)
    found = {"model.width": sides[0], "model.channels": sides[1], "model.patch_size": sides[2:]} if sides else {}
    found["model.depth"] = authors.count(dict(arrays), f"{BACKBONE}layers.")
    widths = {f"{NECK}decoder_embed.weight": "method.decoder_width"}
    return found | authors.sizes_show(dict(arrays), widths, {f"{NECK}decoder_blocks.": "method.decoder_depth"})


def mmpretrain_checkpoint(name: str, layout: Any, own: str = "", foreign: tuple[str, ...] = ()) -> Any:
    """The format of mmpretrain's checkpoints of a relative of MAE.

    own: an array that only this one has; foreign: arrays that only others have.
    """
    needed = (f"{BACKBONE}cls_token", f"{NECK}decoder_pred.weight", *([own] if own else []))
    positions = {**authors.PLAIN, "positions": ("sincos_row",)}
    return authors.checkpoint(
        name,
        "all",
        accepts=lambda arrays: authors.has(arrays, *needed) and not any(other in arrays for other in foreign),
        shows=mmpretrain_shows,
        layout=layout,
        refusal=lambda method: authors.vit_needs(method.model, positions),
        nest=lambda arrays: {"state_dict": arrays},
        methods=(name,),
    )


def tables(method: MaskedAutoencoder, encoder: str = "pos_embed", decoder: str = "decoder_pos_embed") -> dict[str, Any]:
    """The position tables of encoder and decoder, by their names."""
    widths = {encoder: method.model.width, decoder: method.decoder_width}
    grid, prefix, order = method.model.grid, method.model.prefix, method.row_first
    return {name: sincos_2d(grid, width, prefix, order)[None] for name, width in widths.items()}


def decoder_sizes(case: Case, c: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Sizes of the decoder as keys of `method`; c: the section that has them."""
    sizes = {}
    for key, other in (("width", "embed_dim"), ("depth", "depth"), ("heads", "num_heads")):
        names = (f"decoder_{key}", f"decoder_{other}")
        found = c[next((n for n in names if n in c), names[0])] if c is not None else setting(case, *names)
        sizes[f"decoder_{key}"] = int(found)
    return sizes


def decoder_settings(case: Case, c: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Mask ratio, target and sizes of the decoder as keys of `method`; c: the section that has the decoder's sizes."""
    standardised = setting(case, "norm_pix_loss", "norm_pix")
    return decoder_sizes(case, c) | dict(
        mask_ratio=case.config["mask_ratio"], target="norm_pix" if standardised else "pixel"
    )


def masked_by_noise(case: Case, method: Any, arrays: Mapping[str, Any]) -> Mask:
    """The mask that the case's noise makes: the smallest numbers stay. method: has `mask_ratio` and a ViT, `model`."""
    noise = jnp.asarray(arrays["noise"])
    if noise.shape[1:] != (method.model.tokens,):
        raise VerifyError(f"{case.folder}: noise of shape {noise.shape} is not one number per patch")
    return mask_from_noise(noise, visible_count(method.model.tokens, method.mask_ratio), method.model.grid)


def inputs(case: Case, method: MaskedAutoencoder):
    """What `Subject.inputs` is for a case of images and noise."""

    def read(arrays: Mapping[str, Any]):
        images = jnp.asarray(arrays["images"])
        return {"image": images}, {"mask": masked_by_noise(case, method, arrays), "drop_path": None}

    return read


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases."""
    trace = dict(output.trace)
    mask = trace.pop("mask")
    order = jnp.argsort(jnp.concatenate([mask.visible, mask.masked], axis=1), axis=1)
    return {**trace, "mask": mask.hidden, "ids_keep": mask.visible, "ids_restore": order}
