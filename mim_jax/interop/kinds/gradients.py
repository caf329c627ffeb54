"""Norms and weight products of gradients, per parameter under its original name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mim_jax.interop.name_map import to_theirs
from mim_jax.interop.system import Layout

Tree = Any


def gradient_columns(layout: Layout, params: Tree, grads: Tree) -> dict[str, dict[str, Mapping[str, float]]]:
    """{names array: {array: {name: value}}} as `Result.named` wants it.

    Fused and split parameters need no care: gradients are moved into the original layout like weights.
    """
    weights = to_theirs(layout.names, params, layout.sizes)
    gradients = to_theirs(layout.names, grads, layout.sizes)
    products = {name: float(np.vdot(_double(g), _double(weights[name]))) for name, g in gradients.items()}
    return {"grad_names": {"grad_norms": norms(gradients), "grad_dot_weight": products}}


def norms(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """L2 norm of each array."""
    return {name: float(np.linalg.norm(_double(array))) for name, array in arrays.items()}


def _double(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64).ravel()
