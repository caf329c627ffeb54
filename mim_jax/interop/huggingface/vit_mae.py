"""transformers' ViTMAEForPreTraining: names of the arrays, of which there are three spellings.

Files on the hub have the names of transformers 4. Since 5 the modules have other names, and files that 5 saves keep
the old names in the encoder but put the decoder's blocks elsewhere. All three hold the same arrays.
"""

from __future__ import annotations

from collections.abc import Collection

from mim_jax.errors import VerifyError
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.rules import PATCHES, dense, fused, norm, same, under

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
FIXED = "the fixed sin-cos table is computed, not stored"


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
