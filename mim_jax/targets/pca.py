"""Principal components of patches as the target (MAE, table 1d, 'PCA')."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float


class PatchBasis(struct.PyTreeNode):
    """Mean (P) and leading principal directions (P, R) of patch values."""

    mean: Any
    components: Any


def fit_patch_basis(patches: Float[Array, "B N P"], components: int) -> PatchBasis:
    """The `components` directions of largest variance over all patches; signs fixed by the largest entry."""
    rows = patches.reshape(-1, patches.shape[-1])
    mean = rows.mean(0)
    covariance = (rows - mean).T @ (rows - mean) / rows.shape[0]
    directions = jnp.linalg.eigh(covariance)[1][:, ::-1][:, :components]
    largest = jnp.take_along_axis(directions, jnp.abs(directions).argmax(0)[None], axis=0)
    return PatchBasis(mean, directions * jnp.sign(largest))


def project(patches: Float[Array, "B N P"], basis: PatchBasis) -> Float[Array, "B N R"]:
    """Coefficients of patches in the basis."""
    return (patches - basis.mean) @ basis.components


def unproject(coefficients: Float[Array, "B N R"], basis: PatchBasis) -> Float[Array, "B N P"]:
    """Patches from coefficients; what lies outside the basis is lost."""
    return coefficients @ basis.components.T + basis.mean
