"""facebookresearch/ijepa: names of the arrays, its checkpoints, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Int

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.name_map import NameMap, Rule
from mim_jax.interop.positions import FIXED
from mim_jax.interop.references import multi_block
from mim_jax.interop.rules import PATCHES, dense, norm, same, timm_block
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import patch_sizes, vit_config
from mim_jax.masking.mask import Mask
from mim_jax.masking.multi_block import Blocks
from mim_jax.methods.base import Method, Output
from mim_jax.methods.ijepa import IJepa
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.positions import sincos_2d


def encoder(theirs: str, ours: str) -> tuple[Rule, ...]:
    """An encoder without class token."""
    return (
        *dense(f"{theirs}.patch_embed.proj", f"{ours}/patch_embed/proj", PATCHES),
        *timm_block(f"{theirs}.blocks.{{i}}", f"{ours}/blocks_{{i}}"),
        *norm(f"{theirs}.norm", f"{ours}/norm"),
    )


PREDICTOR = (
    *dense("predictor.predictor_embed", "params/predictor/embed"),
    *same("predictor.mask_token", "params/predictor/mask_token"),
    *timm_block("predictor.predictor_blocks.{i}", "params/predictor/blocks_{i}"),
    *norm("predictor.predictor_norm", "params/predictor/norm"),
    *dense("predictor.predictor_proj", "params/predictor/head"),
)
RULES = (*encoder("encoder", "params/encoder"), *encoder("target_encoder", "extra/target_encoder"), *PREDICTOR)
TARGET = "target_encoder.pos_embed"
SETTINGS = ("context_blocks", "target_blocks", "predictor_width", "predictor_depth", "predictor_heads")


def layout(method: IJepa) -> Layout:
    """Encoder, target encoder and predictor, each with its position table."""
    widths = dict.fromkeys(("encoder.pos_embed", TARGET), method.model.width)
    widths["predictor.predictor_pos_embed"] = method.predictor_width
    return fixed(method.model, RULES, widths)


def encoder_layout(method: Method) -> Layout:
    """The target encoder alone."""
    return fixed(method.model, encoder("target_encoder", "params/encoder"), {TARGET: method.model.width})


def fixed(config: VitConfig, rules: tuple[Rule, ...], widths: Mapping[str, int]) -> Layout:
    tables = {name: sincos_2d(config.grid, width, 0)[None] for name, width in widths.items()}
    return Layout(NameMap(rules, dict.fromkeys(tables, FIXED)), patch_sizes(config), tables)


def pretraining(case: Case) -> Subject:
    """I-JEPA as a case asks for it; the case's index lists say what is context and what is target."""
    c, model = case.config, vit_config(case, cls_token=False, init="ijepa")
    section: dict[str, Any] = {key: c[key] for key in SETTINGS}
    # How the masks were drawn does not matter where they are given; grids of cases are small, so nothing is refused.
    section |= dict(min_keep=0, predictor_mlp_ratio=float(c.get("predictor_mlp_ratio", 4.0)))
    method = IJepa.from_config(dataclasses.asdict(model), section)

    def inputs(arrays: Mapping[str, Any]):
        lists = {name: arrays[f"{name}_ids"] for name in ("context", "target")}
        for name, numbers in lists.items():
            blocks = getattr(method, f"{name}_blocks")
            if len(numbers) != blocks:
                raise VerifyError(f"{case.folder}: {len(numbers)} lists in {name}_ids, but {name}_blocks is {blocks}")
        mask, blocks = from_lists(lists["context"], lists["target"], model.grid)
        draws = {"mask": mask, "blocks": blocks, "drop_path": None, "noise": None}
        return {"image": jnp.asarray(arrays["images"])}, draws

    return Subject(method, layout(method), inputs, outputs)


def from_lists(
    context: Int[np.ndarray, "E B L"], target: Int[np.ndarray, "K B M"], grid: tuple[int, int]
) -> tuple[Mask, Blocks]:
    """Blocks from the original's lists of patch numbers, which are exactly as long as they need to be."""
    parts = []
    for lists in (context, target):
        numbers = jnp.asarray(rearrange(lists, "k b m -> b k m"), jnp.int32)
        parts += [numbers, jnp.ones(numbers.shape, bool)]
    seen = np.zeros((context.shape[1], grid[0] * grid[1]), bool)
    for numbers in context:
        np.put_along_axis(seen, numbers, True, axis=1)
    return Mask(hidden=jnp.asarray(~seen), grid=grid), Blocks(*parts)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases; the original has the blocks outermost, then the images."""
    t = output.trace
    contexts = t["pred"].shape[2]
    return {
        "context_features": rearrange(t["latent"], "b (e l) d -> (e b) l d", e=contexts),
        "pred": rearrange(t["pred"], "b k e m d -> (k e b) m d"),
        "target": repeat(t["target"], "b k 1 m d -> (k e b) m d", e=contexts),
        "teacher_features": t["teacher"],
    }


def run_sincos(case: Case) -> Result:
    """The fixed position table."""
    grid = pair(case.config["grid"], "grid")
    return Result(arrays={"table": sincos_2d(grid, int(case.inputs["width"]), prefix=0)})


SYSTEM = System(
    upstream="facebookresearch/ijepa",
    kinds={"pretrain": lambda case: pretrain.run(case, pretraining(case)), "sincos": run_sincos},
    references=(multi_block.reference(),),
)


def nest(arrays: Arrays) -> dict[str, Any]:
    """Each network for itself, wrapped for parallel training as the authors save it."""
    split: dict[str, Any] = {}
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        split.setdefault(part, {})[f"module.{rest}"] = array
    return split


def target(source: Source) -> Arrays:
    """The arrays of the target encoder alone."""
    return {name: a for name, a in authors.networks(source).items() if name.startswith("target_encoder.")}


def shows(arrays: Arrays) -> dict[str, Any]:
    """Sizes of encoder and predictor."""
    widths = {"predictor.predictor_embed.weight": "method.predictor_width"}
    depths = {"predictor.predictor_blocks.": "method.predictor_depth"}
    return authors.vit_shows(arrays, "target_encoder.") | authors.sizes_show(arrays, widths, depths)


def encoder_refusal(method: IJepa) -> str:
    """What the authors' target encoder cannot be."""
    plain = {**authors.PLAIN, "positions": ("sincos",), "cls_token": (False,)}
    return authors.needs(method, {"evaluate": ("target",)}, "method") or authors.vit_needs(method.model, plain)


def refusal(method: IJepa) -> str:
    """What the authors' networks cannot be."""
    own = authors.needs(method, {"stochastic_positions": (0.0,)}, "method")
    return own or encoder_refusal(dataclasses.replace(method, evaluate="target"))


FORMATS = (
    authors.checkpoint(
        "ijepa",
        "all",
        accepts=lambda arrays: has(arrays, "target_encoder.norm.weight", "predictor.predictor_embed.weight"),
        shows=shows,
        layout=layout,
        refusal=refusal,
        state=authors.networks,
        nest=nest,
        methods=("ijepa",),
    ),
    authors.checkpoint(
        "ijepa",
        "encoder",
        accepts=lambda arrays: has(arrays, "target_encoder.norm.weight"),
        shows=shows,
        layout=encoder_layout,
        refusal=encoder_refusal,
        state=target,
        nest=nest,
        methods=("ijepa",),
    ),
)
