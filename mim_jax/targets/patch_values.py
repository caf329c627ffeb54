"""Values of patches to predict, by name, and the way back to pixels."""

from __future__ import annotations

from jaxtyping import Array, Float

from mim_jax.targets import pca, pixels

TARGETS = ("norm_pix", "pixel", "pca")


def patch_target(
    kind: str, patches: Float[Array, "B N P"], basis: pca.PatchBasis | None = None
) -> Float[Array, "B N R"]:
    """The target `kind`: standardised pixels, pixels as they are, or principal components (MAE, table 1d)."""
    if kind == "pca":
        assert basis is not None, "principal components need the basis that init fitted"
        return pca.project(patches, basis)
    return pixels.standardize(patches) if kind == "norm_pix" else patches


def patch_pixels(
    kind: str, prediction: Float[Array, "B N R"], patches: Float[Array, "B N P"], basis: pca.PatchBasis | None = None
) -> Float[Array, "B N P"]:
    """Pixels from a prediction of `kind`; 'norm_pix' needs the true statistics of `patches`, so say so when shown."""
    if kind == "pca":
        assert basis is not None, "principal components need the basis that init fitted"
        return pca.unproject(prediction, basis)
    return pixels.unstandardize(prediction, patches) if kind == "norm_pix" else prediction
