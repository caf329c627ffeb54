"""HOG against numpy written out pixel by pixel, and the properties that the definition promises."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.targets.hog import gaussian, glyph_stamps, glyphs, hog, hog_target

compiled = jax.jit(hog, static_argnums=(1, 2, 3))


def by_hand(image, cell, bins, window=0):
    """One image, every pixel for itself."""
    height, width, channels = image.shape
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    out = np.zeros((height // cell, width // cell, channels, bins))
    smooth = np.array([1.0, 2.0, 1.0])
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                around = padded[y : y + 3, x : x + 3, c]
                across, down = smooth @ (around[:, 0] - around[:, 2]), smooth @ (around[0] - around[2])
                vote = math.hypot(across, down)
                if window:
                    offset = [(i % window - (window - 1) / 2) / (window // 2) for i in (y, x)]
                    line = [math.exp(-0.5 * ((i - (window - 1) / 2) / (window // 2)) ** 2) for i in range(window)]
                    vote *= math.exp(-0.5 * (offset[0] ** 2 + offset[1] ** 2)) / sum(line) ** 2
                out[y // cell, x // cell, c, math.floor(math.atan2(across, down) / math.pi * bins) % bins] += vote
    return out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)


@pytest.mark.parametrize("cell, bins, window", [(4, 9, 0), (2, 7, 0), (4, 9, 8)])
def test_against_the_definition(cell, bins, window):
    image = np.random.default_rng(0).normal(size=(8, 16, 2)).astype(np.float32)
    found = compiled(jnp.asarray(image)[None], cell, bins, window)[0]
    np.testing.assert_allclose(found, by_hand(image, cell, bins, window), atol=2e-6)


@pytest.mark.parametrize("value", [0.7, -1.3, 0.0])
def test_constant_images_give_zeros(value):
    assert not np.asarray(compiled(jnp.full((1, 8, 8, 3), value), 4, 9, 0)).any()


def test_a_ramp_votes_for_bin_four():
    """gx < 0 inside and 0 at the reflected border, gy = 0: phase -4.5, floor -5, bin 4."""
    ramp = jnp.broadcast_to(jnp.arange(16.0)[None, None, :, None], (1, 16, 16, 1))
    histograms = np.asarray(compiled(ramp, 8, 9, 0))
    np.testing.assert_allclose(histograms[..., 4], 1.0, rtol=1e-6)
    assert not np.delete(histograms, 4, axis=-1).any()


def test_every_histogram_has_unit_norm():
    image = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    np.testing.assert_allclose(jnp.linalg.norm(compiled(image, 8, 9, 0), axis=-1), 1.0, rtol=1e-5)


def test_order_of_a_patch():
    """(channel * bins + bin) * cells + cell row * columns + cell column."""
    image = jax.random.normal(jax.random.key(1), (1, 8, 16, 2))
    cells, target = np.asarray(compiled(image, 2, 9, 0))[0], hog_target(image, (4, 8), 2)[0]
    assert target.shape == (4, 2 * 9 * 8)
    patch, channel, k, row, column = 3, 1, 5, 1, 2
    value = target[patch, (channel * 9 + k) * 8 + row * 4 + column]
    assert value == pytest.approx(cells[2 + row, 4 + column, channel, k], rel=1e-6)


def test_gaussian_sums_to_one():
    weights = gaussian(16)
    assert weights.sum() == pytest.approx(1.0, rel=1e-6) and weights[7, 8] == weights.max()


def test_glyphs_draw_edges_along_the_edge():
    """A vertical edge (a ramp across) is drawn as a vertical line."""
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (1, 8, 8, 1))
    picture = np.asarray(glyphs(hog_target(ramp, (8, 8), 8), (1, 1), (1, 1), 1, side=16))[0]
    assert picture.shape == (16, 16) and picture.max() <= 1.0
    assert picture[:, 7:9].sum() > 4 * picture[7:9].sum() / 16
    assert np.ptp(np.flatnonzero(picture.sum(0) > 0)) < np.ptp(np.flatnonzero(picture.sum(1) > 0))
    assert glyph_stamps(8).shape == (9, 8, 8)
