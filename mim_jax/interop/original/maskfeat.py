"""facebookresearch/SlowFast (MaskFeat on images) and mmpretrain's HOG: names of the arrays, checkpoints, cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.format import Arrays
from mim_jax.interop.kinds import hog, pretrain
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.references import mask_statistics
from mim_jax.interop.rules import PATCHES, dense, norm, same, timm_block, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.interop.vit_case import masked_rows, patch_sizes, vit_config
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Output
from mim_jax.methods.maskfeat import MaskFeat
from mim_jax.targets.hog import SOBEL

NAMES = NameMap(
    rules=under(
        "params",
        (
            *same("cls_token", "encoder/cls_token"),
            *same("mask_token", "encoder/mask_token"),
            *same("pos_embed", "encoder/pos_embed"),
            *dense("patch_embed.proj", "encoder/patch_embed/proj", PATCHES),
            *timm_block("blocks.{i}", "encoder/blocks_{i}"),
            *norm("pred_head.transforms.0.0", "head/norm"),
            *dense("pred_head.projections.0", "head/linear"),
        ),
    ),
    computed=dict.fromkeys(("hogs.0.weight_x", "hogs.0.weight_y"), "constant kernels, computed"),
)


def layout(method: MaskFeat) -> Layout:
    """The pretrained network, and the kernels by which it takes gradients where it predicts them."""
    kernels = (np.asarray(SOBEL, np.float32), np.asarray(SOBEL, np.float32).T)
    stacked = (np.broadcast_to(kernel, (3, 1, 3, 3)) for kernel in kernels)
    tables = dict(zip(NAMES.computed, stacked, strict=True)) if method.target == "hog" else {}
    return Layout(NAMES, patch_sizes(method.model), tables)


def pretraining(case: Case) -> Subject:
    """MaskFeat as a case asks for it."""
    c = case.config
    model = dataclasses.asdict(vit_config(case, positions="learned", init="maskfeat"))
    target = {"hog": "hog", "pixel": "pixel", "pixels": "pixel", "norm_pix": "norm_pix"}.get(c["target"])
    if target is None:
        raise VerifyError(f"{case.folder}: config.target '{c['target']}' is none of hog, pixel and norm_pix")
    section: dict[str, Any] = dict(mask_ratio=c["mask_ratio"], target=target)
    if target == "hog":
        section |= dict(hog_cell=c["cell"], hog_bins=c["bins"], gaussian_window=c["gaussian_window"])
    method = MaskFeat.from_config(model, section)

    def inputs(arrays: Mapping[str, Any]):
        hidden = jnp.asarray(np.asarray(arrays["mask"]) > 0).reshape(-1, method.model.tokens)
        return {"image": jnp.asarray(arrays["images"])}, {
            "mask": Mask(hidden, grid=method.model.grid),
            "drop_path": None,
        }

    return Subject(method, layout(method), inputs, outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases; selected rows are taken on the host."""
    t = output.trace
    return {
        "pred": masked_rows(t["pred"], t["mask"].hidden),
        "pred_all": t["pred"],
        "target": masked_rows(t["target"], t["mask"].hidden),
        "features": t["latent"],
    }


def run(case: Case) -> Result:
    return pretrain.run(case, pretraining(case))


SYSTEM = System(
    upstream="facebookresearch/SlowFast",
    kinds={"pretrain": run, "hog": hog.run},
    references=(mask_statistics.reference(mask_statistics.blocks()),),
)


def refusal(method: MaskFeat) -> str:
    """What the authors' network cannot be; bins and cells are constants of their code."""
    hog: authors.Allowed = {"hog_bins": (9,), "hog_cell": (8,), "gaussian_window": (0,)}
    own = authors.needs(method, hog, "method") if method.target == "hog" else ""
    return own or authors.vit_needs(method.model, {**authors.PLAIN, "positions": ("learned",), "channels": (3,)})


def accepts(arrays: Arrays) -> bool:
    return has(arrays, "mask_token", "pos_embed", "pred_head.projections.0.weight")


FORMATS = (
    authors.checkpoint(
        "maskfeat",
        "all",
        accepts=accepts,
        shows=authors.vit_shows,
        layout=layout,
        refusal=refusal,
        nest=lambda arrays: {"model_state": arrays},
        methods=("maskfeat",),
    ),
)
