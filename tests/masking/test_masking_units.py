"""Squares of patches hidden together: counts, shape, distribution."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.masking.units import unit_count, unit_grid, unit_mask, upsample


@pytest.mark.parametrize("units, ratio, hidden", [(36, 0.6, 22), (49, 0.6, 30), (16, 0.5, 8), (25, 0.6, 15)])
def test_count_is_rounded_up(units, ratio, hidden):
    assert unit_count(units, ratio) == hidden == math.ceil(units * ratio)


def test_units_are_hidden_whole_and_evenly():
    grid, units = (6, 12), (3, 4)
    mask = jax.jit(lambda key: unit_mask(key, 3000, units, grid, 0.6))(jax.random.key(0))
    hidden = np.asarray(mask.hidden).reshape(-1, 3, 2, 4, 3)
    cells = hidden[:, :, 0, :, 0]
    np.testing.assert_array_equal(hidden, np.broadcast_to(cells[:, :, None, :, None], hidden.shape))
    assert (cells.sum((1, 2)) == 8).all()  # ceil(7.2)
    np.testing.assert_allclose(cells.mean(0), 8 / 12, atol=5 * np.sqrt(2 / 9 / 3000))
    assert mask.masked.shape == (3000, 48) and mask.visible.shape == (3000, 24) and mask.grid == grid
    np.testing.assert_array_equal(np.flatnonzero(mask.hidden[5]), mask.masked[5])


def test_upsample_repeats():
    cells = jnp.asarray([[[True, False]]])
    np.testing.assert_array_equal(upsample(cells, (2, 4))[0].reshape(2, 4), [[1, 1, 0, 0]] * 2)


@pytest.mark.parametrize(
    "image, patch, unit, words",
    [
        ((192, 192), (16, 16), 24, "mask_unit 24 must be a multiple of the patch height 16 .*nearest that is both: 16"),
        ((192, 160), (4, 4), 64, "divide the image width 160; nearest that is both: 32"),
        ((30, 30), (2, 3), 0, "mask_unit 0 .*nearest that is both: 6"),
        ((15, 20), (15, 20), 20, "none is both"),
    ],
)
def test_units_that_do_not_fit_are_refused(image, patch, unit, words):
    with pytest.raises(ConfigError, match=words):
        unit_grid(image, patch, unit)


def test_a_rectangle_has_a_rectangle_of_units():
    assert unit_grid((64, 96), (4, 4), 16) == (4, 6)


@pytest.mark.parametrize("ratio, words", [(0.0, "between 0 and 1"), (1.0, "between 0 and 1"), (0.9, "at most 0.75")])
def test_impossible_ratios_are_refused(ratio, words):
    with pytest.raises(ConfigError, match=words):
        unit_count(4, ratio)
