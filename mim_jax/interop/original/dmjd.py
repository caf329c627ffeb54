"""mx-mark/DMJD: names of the arrays, its checkpoints, its target, and how its reference cases read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop import authors, mae_case
from mim_jax.interop.authors import has
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.conv_vit_case import ENCODER, conv_vit_config, conv_vit_shows, sizes
from mim_jax.interop.kinds import pretrain
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.positions import FIXED
from mim_jax.interop.rules import dense, norm, under
from mim_jax.interop.system import Layout, Subject, System
from mim_jax.losses.smooth_l1 import smooth_l1
from mim_jax.masking.disjoint import disjoint_counts, disjoint_from_noise
from mim_jax.masking.mask import gather_tokens
from mim_jax.methods.base import Batch, Output
from mim_jax.methods.dmjd import BETA, DMJD
from mim_jax.targets.features import normalize_features
from mim_jax.targets.hog_standardized import cell_histograms

PROJECTOR = (
    *dense("proj_embed.0", "projector/fc1"),
    *norm("proj_embed.1", "projector/norm1"),
    *dense("proj_embed.3", "projector/fc2"),
    *norm("proj_embed.4", "projector/norm2"),
    *dense("proj_embed.6", "projector/fc3"),
    *dense("predictor.0", "projector/linear"),
)
NAMES = NameMap(
    under("params", ENCODER + mae_case.decoder() + PROJECTOR),
    dict.fromkeys(("pos_embed", "decoder_pos_embed"), FIXED),
)
MASKINGS = {"block": "block", "rand": "random"}


@dataclasses.dataclass(frozen=True)
class GivenTarget(DMJD):
    """The method on a target that comes with the batch."""

    target_values: int = 108

    @property
    def outputs(self) -> int:
        return self.target_values

    def values(self, batch: Batch):
        return batch["target"]


def layout(method: DMJD) -> Layout:
    """The pretrained network: encoder, fusion, decoder, projector, and both position tables."""
    return Layout(NAMES, sizes(method.model), mae_case.tables(method))


def pretraining(case: Case) -> Subject:
    """DMJD as a case asks for it, on the case's target; its noise and permutations decide what is hidden."""
    c, model = case.config, conv_vit_config(case)
    if c["mask_type"] not in MASKINGS:
        raise VerifyError(f"{case.folder}: config.mask_type '{c['mask_type']}' is none of {', '.join(MASKINGS)}")
    section = dict(
        mask_ratio=c["mask_ratio"],
        masking=MASKINGS[c["mask_type"]],
        prediction_ratio=float(c.get("pred_ratio", 1.0)),
        decoder_mlp_ratio=model.stem_mlp_ratio[0],
        target_values=int(c["target_dim"]),
        **mae_case.decoder_sizes(case),
    )
    method = GivenTarget.from_config(dataclasses.asdict(model), section)
    shares = (model.grid, method.masking, method.mask_ratio, method.prediction_ratio)
    cells, visible, _ = disjoint_counts(*shares)

    def inputs(arrays: Mapping[str, Any]):
        noise, seen, hidden = (jnp.asarray(arrays[name]) for name in ("noise", "perm_visible", "perm_masked"))
        if (noise.shape[-1], len(seen), len(hidden)) != (cells, visible, cells - visible):
            raise VerifyError(f"{case.folder}: noise or permutations are not of {cells} cells, {visible} visible")
        batch = {"image": jnp.asarray(arrays["images"]), "target": jnp.asarray(arrays["target"])}
        return batch, {"mask": disjoint_from_noise(noise, seen, hidden, *shares), "drop_path": None}

    return Subject(method, layout(method), inputs, outputs)


def outputs(output: Output) -> dict[str, Any]:
    """What `forward` reports under the names of the cases: view 1 of all images, then view 2."""
    t, both = output.trace, output.trace["both"]

    def order(rows):
        return jnp.concatenate([rows[::2], rows[1::2]])

    mask, distilled = both["mask"], t["pred_visible"]
    shuffle = jnp.concatenate([mask.visible, mask.masked], axis=1)

    def visible(index):
        return smooth_l1(distilled, gather_tokens(both["target"], index), BETA).mean()

    return {
        "loss_masked": output.terms["masked"],
        "loss_visible_released": visible(jnp.sort(mask.visible, axis=1)),
        "loss_visible_aligned": visible(mask.visible),
        "pred": order(both["pred"]),
        "pred_visible": order(distilled),
        "mask": order(mask.hidden),
        "ids_keep": order(mask.visible),
        "ids_restore": order(jnp.argsort(shuffle, axis=1)),
        "latent": order(both["latent"]),
    }


def hog(case: Case) -> Result:
    """The target's histograms, before and after they are standardised."""
    images = jnp.asarray(case.inputs["images_raw"])
    if images.shape[1:3] != (case.config["img_size"],) * 2:
        raise VerifyError(f"{case.folder}: images of {images.shape[1:3]}, but img_size {case.config['img_size']}")
    cells = cell_histograms(images, int(case.config.get("cell", 8)))
    move = lambda x: np.moveaxis(np.asarray(x), 3, 1)  # noqa: E731
    return Result({"hog_cells": move(cells), "hog_normalised": move(normalize_features(cells))})


SYSTEM = System(
    upstream="mx-mark/DMJD",
    kinds={"model": lambda case: pretrain.run(case, pretraining(case)), "hog": hog},
)


def refusal(method: DMJD) -> str:
    """What the authors' network cannot be."""
    return authors.needs(method.model, {"strides": ((4, 2, 2),), "channels": (3,), "layer_norm_eps": (1e-6,)})


FORMATS = (
    authors.checkpoint(
        "dmjd",
        "all",
        accepts=lambda arrays: has(arrays, "patch_embed4.weight", "stage1_output_decode.weight", "predictor.0.weight"),
        shows=conv_vit_shows,
        layout=layout,
        refusal=refusal,
        methods=("dmjd",),
    ),
)
