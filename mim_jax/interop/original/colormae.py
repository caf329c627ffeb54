"""carlosh93/ColorMAE: masks out of a bank of noise, and checkpoints, which are mmpretrain's MAE."""

from __future__ import annotations

import jax.numpy as jnp

from mim_jax.errors import VerifyError
from mim_jax.interop import mae_case
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.system import Layout, System
from mim_jax.interop.vit_case import patch_sizes
from mim_jax.masking.colour_noise import mask_from_windows, noise_windows
from mim_jax.masking.random import visible_count
from mim_jax.methods.colormae import ColorMAE

NAMES = mae_case.mmpretrain()


def layout(method: ColorMAE) -> Layout:
    """The pretrained network and both position tables."""
    return Layout(NAMES, patch_sizes(method.model), mae_case.tables(method, *mae_case.TABLES))


def run(case: Case) -> Result:
    """Windows and masks for a given bank, corners and flips."""
    c, bank = case.config, jnp.asarray(case.inputs["noise_bank"])
    window, sizes = pair(c["window"], "window"), (int(c["bank"]), *pair(c["bank_size"], "bank_size"))
    if bank.shape != sizes:
        raise VerifyError(f"{case.folder}: noise_bank of shape {bank.shape}, but the config says {sizes}")
    batch, passes = int(c["batch"]), -(-int(c["batch"]) // len(bank))
    corners, flips = (jnp.asarray(case.inputs[name]) for name in ("crop_corner", "flips"))
    if corners.shape != (passes, 2) or flips.shape != (passes, 2):
        raise VerifyError(f"{case.folder}: crop_corner and flips must be of shape {(passes, 2)}, one row for a pass")
    windows = noise_windows(bank, corners, flips > 0, batch, window)
    mask = mask_from_windows(windows, visible_count(window[0] * window[1], float(c["mask_ratio"])))
    order = jnp.concatenate([mask.visible, mask.masked], axis=1)
    return Result(
        arrays={
            "windows": windows,
            "mask": mask.hidden,
            "ids_keep": mask.visible,
            "ids_restore": jnp.argsort(order, axis=1),
            "bank_index": jnp.arange(batch) % len(bank),
        }
    )


SYSTEM = System(upstream="carlosh93/ColorMAE", only=run)
FORMATS = (mae_case.mmpretrain_checkpoint("colormae", layout, foreign=("backbone.proj_weights",)),)
