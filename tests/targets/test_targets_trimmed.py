"""Standardising without the extremes, against numpy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.targets.trimmed import trimmed_standardize


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_mean_and_deviation_of_the_middle(share):
    maps = np.random.default_rng(0).normal(size=(3, 7, 9, 1)).astype(np.float32) * 5 + 2
    maps[0, 0, 0] = 1e4  # an outlier
    found = np.asarray(trimmed_standardize(jnp.asarray(maps), share))
    for one, ours in zip(maps, found, strict=True):
        kept = np.sort(one.ravel())[int(share * 63) : int((1 - share) * 63)].astype(np.float64)
        np.testing.assert_allclose(ours, (one - kept.mean()) / np.sqrt(kept.var(ddof=1) + 1e-6), rtol=1e-5, atol=1e-5)


def test_a_flat_map_is_zero():
    assert not np.asarray(trimmed_standardize(jnp.full((2, 4, 4, 1), 0.25), 0.1)).any()
