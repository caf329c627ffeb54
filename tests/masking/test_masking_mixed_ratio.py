"""Masks whose ratio differs from image to image."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.masking.mixed_ratio import check_masking, mixed_ratio_hidden, mixed_ratios


def draw(shape, ratios, spreads, grid=(6, 9), batch=400, share=1.0):
    sampler = jax.jit(partial(mixed_ratio_hidden, batch=batch, grid=grid, ratios=ratios, spreads=spreads, shape=shape))
    return np.asarray(sampler(jax.random.key(0), share=share))


def test_ratios_are_chosen_alike_and_spread_evenly():
    ratios = np.asarray(mixed_ratios(jax.random.key(0), 4000, (0.0, 0.3), (0.0, 0.2)))
    none = ratios == 0
    assert 0.47 < none.mean() < 0.53
    rest = ratios[~none]
    assert 0.1 <= rest.min() < 0.11 and 0.49 < rest.max() <= 0.5
    np.testing.assert_allclose(rest.mean(), 0.3, atol=0.01)


def test_single_patches_are_hidden_in_exact_number():
    hidden = draw("random", (0.5,), (0.3,))
    counts = hidden.sum(1)
    assert counts.min() >= int(0.2 * 54) and counts.max() <= int(0.8 * 54) and len(set(counts)) > 20
    assert (draw("random", (0.33,), (0.0,)).sum(1) == int(0.33 * 54)).all()
    np.testing.assert_allclose(hidden.mean(0), hidden.mean(), atol=0.12)


def test_blocks_hide_at_most_their_ratio_and_seldom_much_less():
    counts = draw("block", (0.4,), (0.0,)).sum(1)
    assert counts.max() <= 0.4 * 54 < counts.max() + 1.5
    assert np.median(counts) > 0.25 * 54


def test_a_share_of_nothing_hides_nothing():
    for shape in ("block", "random"):
        assert not draw(shape, (0.4,), (0.1,), share=jnp.zeros(())).any()


@pytest.mark.parametrize(
    "shape, ratios, spreads, start, sentence",
    [
        ("blocks", (0.3,), (0.0,), 0, "method.masking 'blocks' is not one of block, random"),
        ("block", (1.0,), (0.0,), 0, "method.mask_ratio 1.0 must be at least 0 and below 1"),
        ("block", (-0.1,), (0.0,), 0, "method.mask_ratio -0.1"),
        ("block", (0.3,), (0.4,), 0, "method.mask_ratio_spread 0.4 .* the largest is 0.3"),
        ("block", (0.3, 0.5), (0.1,), 0, "2 entries and method.mask_ratio_spread 1"),
        ("block", (0.0,), (0.0,), 0, "never hides one of 54 patches"),
        ("block", (0.3,), (0.0,), -1, "method.mask_start_epoch -1 must be 0 or more"),
    ],
)
def test_bad_settings_are_refused(shape, ratios, spreads, start, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_masking(shape, ratios, spreads, start, 54)
