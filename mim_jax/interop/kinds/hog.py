"""The HOG target of MaskFeat, cell by cell and patch by patch."""

from __future__ import annotations

import einops
import jax.numpy as jnp
import numpy as np

from mim_jax.interop.case import Case, read_json
from mim_jax.interop.compare import Result, Row, compare_arrays
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.targets.hog import gaussian, gradients, hog, hog_target

SHARE = "share of cells (of one channel) whose histogram differs by more than 1e-4 in a float64 run"


def run(case: Case) -> Result:
    """Robust cells within the tolerance; of the others no more may differ than in the authors' own float64 run."""
    c, images = case.config, jnp.asarray(case.inputs["images"])
    settings = (int(c["cell"]), int(c["bins"]), int(c["gaussian_window"]))
    patch = pair(c["patch_size"], "patch_size")
    histograms = einops.rearrange(np.asarray(hog(images, *settings)), "b h w c k -> b c k h w")
    target = np.asarray(hog_target(images, patch, *settings))
    robust = np.asarray(case.outputs["robust_cells"])
    sides = patch[0] // settings[0], patch[1] // settings[0]
    per_value = einops.repeat(robust, "b c (h p) (w q) -> b (h w) (c k p q)", p=sides[0], q=sides[1], k=settings[1])
    rows = [
        selected("hog", case, histograms, np.broadcast_to(robust[:, :, None], histograms.shape)),
        selected("target", case, target, per_value),
        share_row(case, histograms, robust),
        *buffers(case, settings[2]),
    ]
    skipped = {name: "see the rows above" for name in ("hog", "target", "robust_cells")}
    return Result(skipped=skipped, rows=rows)


def selected(name: str, case: Case, found: np.ndarray, where: np.ndarray) -> Row:
    """One array where `where` is true."""
    row = compare_arrays(f"{name} in robust cells", case.outputs[name][where], found[where], case.strict)
    return row


def share_row(case: Case, found: np.ndarray, robust: np.ndarray) -> Row:
    """How many cells differ at all; rounding moves votes in flat regions of photographs."""
    differs = (np.abs(found - case.outputs["hog"]) > 1e-4).any(axis=2)
    said = read_json(case.folder / "case.json").get("float32_against_float64", {})
    allowed = float(said.get(SHARE, 0.0)) if isinstance(said, dict) else 0.0
    share = float(differs.mean())
    note = f"{share:.3f} of the cells differ; in the authors' float64 run {allowed:.3f}; {robust.mean():.2f} are robust"
    return Row("hog in the other cells", ok=share <= allowed, note=note)


def buffers(case: Case, window: int) -> list[Row]:
    """The authors' constant kernels against ours."""
    kernels, rows = sobel(), []
    for name, weight in (case.weights or {}).items():
        if weight.shape[-2:] == (3, 3):
            ours = np.broadcast_to(kernels[name.rpartition(".")[2]], weight.shape)
        else:
            ours = np.tile(gaussian(window), (weight.shape[-2] // window, weight.shape[-1] // window)).reshape(
                weight.shape
            )
        rows.append(compare_arrays(f"{name} (constant)", weight, np.asarray(ours), case.strict))
    return rows


def sobel() -> dict[str, np.ndarray]:
    """The kernels that `gradients` amounts to: a correlation answers an impulse with its kernel turned round."""
    impulse = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    responses = zip(("weight_x", "weight_y"), gradients(impulse), strict=True)
    return {name: np.asarray(response)[0, 1:4, 1:4, 0][::-1, ::-1] for name, response in responses}
