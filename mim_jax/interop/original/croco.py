"""naver/croco, both versions: names of the arrays, its checkpoints, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import LINEAR, PATCHES, dense, norm, same, timm_block, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.masking.mask import mask_from_hidden
from mim_jax.methods.base import Output
from mim_jax.methods.croco import CroCo
from mim_jax.nn.positions import sincos_2d
from mim_jax.nn.rotary import rotary_table, rotate

TABLES = ("enc_pos_embed", "dec_pos_embed")


def interleaved(theirs: str, ours: str, parts: str, heads: str) -> tuple[Rule, ...]:
    """A linear layer whose outputs are heads, with channels that turn together next to each other on our side.

    In a head of theirs, channel j of a half (axis a: down, across) turns with the one half of a half further (axis s).
    parts: axis of layers side by side, such as t for query, key and value, or ''. heads: axis of the heads.
    """
    before, after = f"{parts} {heads} a s j".strip(), f"{parts} {heads} a j s".strip()
    return (
        Rule((f"{theirs}.weight",), (f"{ours}/kernel",), f"({before}) i -> i ({after})"),
        Rule((f"{theirs}.bias",), (f"{ours}/bias",), f"({before}) -> ({after})"),
    )


def turned(rules: tuple[Rule, ...], heads: str) -> tuple[Rule, ...]:
    """The rules of a block with its attention's channels reordered; values are, too, and so what reads them."""
    found: list[Rule] = []
    for rule in rules:
        theirs, ours = rule.theirs[0].rpartition(".")[0], rule.ours[0].rpartition("/")[0]
        layer = theirs.rpartition(".")[2]
        if layer in ("qkv", "projq", "projk", "projv"):
            if rule.pattern:  # its bias comes with it
                found += interleaved(theirs, ours, "t" if layer == "qkv" else "", heads)
        elif ours.endswith("attn/proj") and rule.pattern:
            found.append(dataclasses.replace(rule, pattern=f"o ({heads} a s j) -> ({heads} a j s) o"))
        else:
            found.append(rule)
    return tuple(found)


def decoder_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A block with cross-attention."""
    cross = (f"{theirs}.cross_attn", f"{ours}/cross_attn")
    return (
        *timm_block(theirs, ours),
        *(rule for n in "qkv" for rule in dense(f"{cross[0]}.proj{n}", f"{cross[1]}/{n}", LINEAR)),
        *dense(f"{cross[0]}.proj", f"{cross[1]}/proj"),
        *norm(f"{theirs}.norm3", f"{ours}/norm3"),
        *norm(f"{theirs}.norm_y", f"{ours}/norm_other"),
    )


BLOCKS = {
    "ke": timm_block("enc_blocks.{i}", "encoder/blocks_{i}"),
    "kd": decoder_block("dec_blocks.{i}", "decoder/blocks_{i}"),
}
REST = (
    *dense("patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
    *norm("enc_norm", "encoder/norm"),
    *same("mask_token", "decoder/mask_token"),
    *dense("decoder_embed", "decoder/embed"),
    *norm("dec_norm", "decoder/norm"),
    *dense("prediction_head", "decoder/head"),
)


def layout(method: CroCo) -> Layout:
    """The pretrained network; both position tables, where they are added."""
    model, sizes, tables = method.model, patch_sizes(method.model), {}
    blocks = BLOCKS
    if model.rope_base:
        blocks = {heads: turned(rules, heads) for heads, rules in BLOCKS.items()}
        sizes |= {"t": 3, "a": 2, "s": 2, "ke": model.heads, "kd": method.decoder_heads}
    else:
        widths = zip(TABLES, (model.width, method.decoder_width), strict=True)
        tables = {name: sincos_2d(model.grid, width, prefix=0) for name, width in widths}
    rules = (*REST, *blocks["ke"], *blocks["kd"])
    return Layout(NameMap(under("params", rules), dict.fromkeys(tables, FIXED)), sizes, tables)


def rope_base(kind: Any, where: Any) -> float:
    """The base of rotary positions, 0 for none, from a setting such as cosine or RoPE100.

    Raises:
        VerifyError: anything else.
    """
    number = str(kind).removeprefix("RoPE")
    if kind == "cosine":
        return 0.0
    if number == kind or not number.replace(".", "", 1).isdigit():
        raise VerifyError(f"{where}: config.pos_embed '{kind}' is neither cosine nor RoPE followed by a number")
    return float(number)


def pretraining(case: Case) -> Subject:
    """CroCo as a case asks for it; the case's mask decides what is hidden."""
    c = case.config
    base = rope_base(c["pos_embed"], case.folder)
    encoder = {ours: c[f"enc_{theirs}"] for ours, theirs in (("width", "embed_dim"), ("heads", "num_heads"))}
    renamed = Case(**{**vars(case), "config": type(c)({**c, **encoder, "depth": c["enc_depth"]}, c.where)})
    model = vit_config(renamed, "images_view1", cls_token=False, positions="none" if base else "sincos", rope_base=base)
    hidden = np.asarray(case.inputs["mask"]).astype(bool)
    section = dict(
        mask_ratio=c["mask_ratio"],
        target="norm_pix" if c["norm_pix_loss"] else "pixel",
        decoder_width=c["dec_embed_dim"],
        decoder_depth=c["dec_depth"],
        decoder_heads=c["dec_num_heads"],
        norm_other=bool(c["norm_im2_in_dec"]),
    )
    method = CroCo.from_config(dataclasses.asdict(model), section)
    count = method.masking.count(model.tokens)
    if hidden.shape[1:] != (model.tokens,) or (hidden.sum(1) != count).any():
        raise VerifyError(f"{case.folder}: the mask does not hide {count} of {model.tokens} patches of every image")

    def inputs(arrays: Mapping[str, Any]):
        batch = {f"image{n}".rstrip("1"): jnp.asarray(arrays[f"images_view{n}"]) for n in (1, 2)}
        mask = mask_from_hidden(jnp.asarray(np.asarray(arrays["mask"]).astype(bool)), count, model.grid)
        return batch, {"mask": mask, "drop_path": None, "other_drop_path": None}

    return Subject(method, layout(method), inputs, outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases."""
    names = {"pred": "pred", "target": "target", "target_raw": "patches", "features1": "latent", "features2": "other"}
    return {theirs: output.trace[ours] for theirs, ours in names.items()}


def run(case: Case) -> Result:
    """One pass forward and backward, what leaves the decoder's blocks, and the rotary positions by themselves."""
    subject = pretraining(case)
    result = pretrain.run(case, subject)
    batch, draws = subject.inputs(case.inputs)
    method: Any = subject.method
    params, decoder = subject.variables(case, batch).params["decoder"], method.modules()[1]
    apply = jax.jit(lambda *args: decoder.apply({"params": params}, *args, mutable=["intermediates"])[1])
    kept = apply(result.arrays["features1"], result.arrays["features2"], draws["mask"])
    result.arrays["decoder_features"] = kept["intermediates"]["features"][0]
    if "rope_tokens" in case.inputs:
        positions, base = np.asarray(case.inputs["rope_positions"]), method.model.rope_base
        result.arrays["rope_output"] = rotated(case.inputs["rope_tokens"], positions, base or 100.0)
    return result


def rotated(tokens: np.ndarray, positions: np.ndarray, base: float) -> Any:
    """Tokens (B, K, T, d) at places (B, T, 2) turned in their order of channels."""
    grid = tuple(int(n) + 1 for n in positions.max((0, 1)))
    table = jnp.asarray(rotary_table((grid[0], grid[1]), tokens.shape[-1], base=base))
    places = table[:, positions[..., 0] * grid[1] + positions[..., 1]]
    ours = einops.rearrange(jnp.asarray(tokens), "b k t (a s j) -> b k t (a j s)", a=2, s=2)
    return einops.rearrange(rotate(ours, places), "b k t (a j s) -> b k t (a s j)", a=2, s=2)


SYSTEM = System(upstream="naver/croco", only=run)


def shows(arrays: Arrays) -> dict[str, Any]:
    """Sizes of encoder and decoder, and which positions they have."""
    widths = {"decoder_embed.weight": "method.decoder_width"}
    depths = {"enc_blocks.": "model.depth", "dec_blocks.": "method.decoder_depth"}
    positions = {"model.positions": "sincos" if TABLES[0] in arrays else "none"}
    return authors.patches_show(arrays) | authors.sizes_show(arrays, widths, depths) | positions


def refusal(method: CroCo) -> str:
    """What the authors' network cannot be."""
    own = authors.needs(method, {"target": ("norm_pix", "pixel")}, "method")
    plain = {**authors.PLAIN, "cls_token": (False,), "positions": ("sincos", "none"), "channels": (3,)}
    return own or authors.vit_needs(method.model, plain)


FORMATS = (
    authors.checkpoint(
        "croco",
        "all",
        accepts=lambda arrays: has(arrays, "enc_norm.weight", "dec_norm.weight", "prediction_head.weight"),
        shows=shows,
        layout=layout,
        refusal=refusal,
        methods=("croco",),
        switches=("rope_base",),
    ),
)
