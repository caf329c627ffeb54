"""Masks: counts, order, and the distribution of the authors' own generators."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.masking.block import block_hidden, block_mask
from mim_jax.masking.mask import gather_tokens, mask_from_noise
from mim_jax.masking.random import grid_mask, random_mask, visible_count


@pytest.mark.parametrize("tokens, ratio, kept", [(196, 0.75, 49), (256, 0.75, 64), (196, 0.9, 19), (64, 0.6, 25)])
def test_count_is_truncated_as_in_the_original(tokens, ratio, kept):
    assert visible_count(tokens, ratio) == kept == int(tokens * (1 - ratio))


@pytest.mark.parametrize("ratio", [1.2, 0.0, 1.0, -0.5, 0.999])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(ConfigError, match=f"mask_ratio {ratio}"):
        visible_count(16, ratio)


def test_mask_from_noise_sorts_the_noise():
    noise = jnp.asarray([[0.4, 0.1, 0.3, 0.2], [0.1, 0.1, 0.0, 0.9]])
    mask = mask_from_noise(noise, 2, (2, 2))
    np.testing.assert_array_equal(mask.visible, [[1, 3], [2, 0]])
    np.testing.assert_array_equal(mask.masked, [[2, 0], [1, 3]])
    np.testing.assert_array_equal(mask.hidden, [[1, 0, 1, 0], [0, 1, 0, 1]])


def test_random_mask_is_uniform_over_positions():
    mask = random_mask(jax.random.key(0), 4000, (4, 6), 0.75)
    hidden = np.asarray(mask.hidden)
    assert (hidden.sum(1) == 18).all()
    chi_square = ((hidden.sum(0) - 3000) ** 2 / (4000 * 0.75 * 0.25)).sum()
    assert chi_square < 49.7  # 23 degrees of freedom, level 0.001


def test_grid_mask_keeps_one_of_four():
    mask = grid_mask(2, (4, 6))
    kept = ~np.asarray(mask.hidden).reshape(2, 4, 6)
    assert kept.sum() == 12 and kept[:, ::2, ::2].all()
    with pytest.raises(ConfigError, match="does not hold"):
        grid_mask(1, (3, 4))


def test_gather_tokens_picks_per_image():
    tokens = jnp.arange(24.0).reshape(2, 4, 3)
    np.testing.assert_array_equal(gather_tokens(tokens, jnp.asarray([[3], [0]])), [[[9, 10, 11]], [[12, 13, 14]]])


def reference(shared, system):
    return json.loads((shared / "goldens" / system / "mask_statistics.json").read_text())["runs"][0]


def test_block_masks_are_distributed_as_beits(shared):
    """Counts by chi-square against the authors' histogram, positions by standard errors."""
    run = reference(shared, "beit")
    draws = 4000
    hidden = np.asarray(jax.jit(lambda k: block_hidden(k, draws, (14, 14), 75))(jax.random.key(0)))
    check_positions(hidden, run)
    theirs = {int(k): v for k, v in run["masked count (count: masks)"].items()}
    ours = dict(zip(*np.unique(hidden.sum(1), return_counts=True), strict=True))
    assert max(ours) <= 75
    # Bins with enough masks on both sides; the rest in one.
    common = [c for c, n in theirs.items() if n >= 50]
    a = np.array([theirs[c] for c in common] + [sum(theirs.values()) - sum(theirs[c] for c in common)])
    b = np.array([ours.get(c, 0) for c in common] + [draws - sum(ours.get(c, 0) for c in common)])
    scale = np.sqrt(b.sum() / a.sum())
    chi_square = ((scale * a - b / scale) ** 2 / np.maximum(a + b, 1)).sum()
    assert chi_square < len(a) + 4.5 * np.sqrt(2 * len(a))


def test_exact_block_masks_are_distributed_as_caes(shared):
    run = reference(shared, "cae")
    mask = jax.jit(lambda k: block_mask(k, 4000, (14, 14), 98))(jax.random.key(1))
    hidden = np.asarray(mask.hidden)
    assert (hidden.sum(1) == 98).all() and mask.masked.shape == (4000, 98)
    check_positions(hidden, run)
    assert (np.diff(np.asarray(mask.visible), axis=1) > 0).all()


def check_positions(hidden, run):
    """Every position's frequency within 4.5 standard errors of the two samples' difference."""
    theirs = np.asarray(run["per_position_frequency"], float).reshape(-1)
    spread = np.sqrt(theirs * (1 - theirs) * (1 / len(hidden) + 1 / run["masks"]))
    assert (np.abs(hidden.mean(0) - theirs) < 4.5 * spread).all()


@pytest.mark.parametrize("count", [1, 7, 12, 23])
def test_exact_block_masks_reach_any_count(count):
    mask = block_mask(jax.random.key(0), 16, (4, 6), count, min_block=4)
    assert (np.asarray(mask.hidden).sum(1) == count).all()
