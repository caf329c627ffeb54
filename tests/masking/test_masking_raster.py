"""Exact masks in raster order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.masking.raster import RasterMasking, place_masked


@pytest.mark.parametrize("sampler, hidden", [(RasterMasking(min_block=3), 12), (RasterMasking("random", 0, 0.3), 7)])
def test_counts_are_exact_and_both_lists_ascend(sampler, hidden):
    mask = jax.jit(lambda key: sampler.draw(key, 64, (4, 6)))(jax.random.key(0))
    assert sampler.count(24) == hidden and (mask.hidden.sum(1) == hidden).all() and mask.grid == (4, 6)
    assert (np.diff(mask.visible) > 0).all() and (np.diff(mask.masked) > 0).all()
    assert np.take_along_axis(np.asarray(mask.hidden), np.asarray(mask.masked), 1).all()


def test_random_positions_are_uniform():
    mask = RasterMasking("random", num_mask_patches=6).draw(jax.random.key(1), 4000, (4, 6))
    np.testing.assert_allclose(mask.hidden.mean(0), 0.25, atol=5 * (0.25 * 0.75 / 4000) ** 0.5)


def test_placing_is_the_inverse_of_picking():
    mask = RasterMasking("random").draw(jax.random.key(2), 3, (2, 4))
    tokens = jnp.arange(24).reshape(3, 8)
    picked = jnp.take_along_axis(tokens, mask.masked, 1)
    placed = place_masked(jnp.zeros_like(tokens), picked, mask)
    np.testing.assert_array_equal(placed, jnp.where(mask.hidden, tokens, 0))


@pytest.mark.parametrize(
    "sampler, words",
    [
        (RasterMasking("blok"), "masking 'blok' is not one of block, random"),
        (RasterMasking(mask_ratio=1.0), "mask_ratio 1.0 must lie between"),
        (RasterMasking(mask_ratio=0.01), "mask_ratio 0.01 hides 0 of 16"),
        (RasterMasking(num_mask_patches=16), "num_mask_patches 16 hides 16 of 16"),
        (RasterMasking(min_block=10), "min_block 10 must be between 1 and 9"),
    ],
)
def test_impossible_settings(sampler, words):
    with pytest.raises(ConfigError, match=words):
        sampler.check((4, 4))
