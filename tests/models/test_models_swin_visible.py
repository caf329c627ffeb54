"""A Swin transformer on visible cells against the same transformer on the whole grid with the others cut off."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.models.swin_config import SwinConfig
from mim_jax.models.swin_visible import listed_tokens, stage_tokens
from mim_jax.nn.visible_windows import chunk_sizes, visible_windows
from mim_jax.nn.window import WindowAttention


@pytest.mark.parametrize(("count", "shift", "cosine"), [(10, 0, False), (23, 1, False), (40, 1, True)])
def test_attention_among_visible_tokens_is_that_of_a_window_without_the_others(count, shift, cosine):
    """Each token alone, by the definition: all visible tokens of its window, and no other."""
    grid, side, width = (6, 8), 2, 8
    chosen = np.random.default_rng(count).permutation(48)[:count]
    tokens = jnp.asarray(chosen)[None]
    module = WindowAttention(grid, (side, side), shift, heads=2, cosine=cosine)
    x = jax.random.normal(jax.random.key(0), (2, 48, width))
    params = jax.tree.map(lambda a: a + 0.3, module.init(jax.random.key(1), x))
    layout = visible_windows(tokens, grid, (side, side), shift)
    found = module.apply(params, x[:, chosen], layout)
    assert (layout.window.shape[1] > 1) == (count > 3 * side * side)
    for images in (1, 2):  # a row for all, and a row for each
        rows = visible_windows(jnp.repeat(tokens, images, 0), grid, (side, side), shift)
        np.testing.assert_allclose(module.apply(params, x[:, chosen], rows), found, rtol=1e-5, atol=1e-6)
    whole = WindowAttention((2 * grid[0], 2 * grid[1]), (side, side), 0, heads=2, cosine=cosine)
    window = [((n // 8 - shift) // side, (n % 8 - shift) // side) for n in chosen]
    for number in sorted(set(window)):
        inside = [i for i, w in enumerate(window) if w == number]
        alone = visible_windows(jnp.asarray(chosen[inside])[None], grid, (side, side), shift)
        expected = whole.apply(params, x[:, chosen[inside]], alone)
        np.testing.assert_allclose(np.asarray(found)[:, inside], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_all_tokens_visible_is_the_whole_grid(shift):
    grid, side = (4, 6), 2
    module = WindowAttention(grid, (side, side), shift, heads=2)
    x = jax.random.normal(jax.random.key(0), (1, 24, 8))
    params = jax.tree.map(lambda a: a + 0.3, module.init(jax.random.key(1), x))
    order = np.random.default_rng(0).permutation(24)
    layout = visible_windows(jnp.asarray(order)[None], grid, (side, side), shift)
    np.testing.assert_allclose(module.apply(params, x[:, order], layout), module.apply(params, x)[:, order], atol=1e-5)


def test_chunks_never_cost_more_than_one():
    for tokens in range(1, 60):
        chunks, length, keys = chunk_sizes(tokens, 4)
        assert chunks * length >= tokens and keys <= max(tokens, 12) and (chunks == 1 or chunks > 3)


def test_tokens_of_cells_and_their_numbers_in_the_list():
    config = SwinConfig(image_size=(8, 12), patch_size=(2, 2), depths=(1, 1), heads=(1, 1), width=8, window_size=2)
    cells = jnp.asarray([[4, 0]])  # of a grid of 2 x 3
    np.testing.assert_array_equal(stage_tokens(config, cells, 0)[0], [14, 15, 20, 21, 0, 1, 6, 7])
    np.testing.assert_array_equal(listed_tokens(config, cells, 0)[0], [16, 17, 18, 19, 0, 1, 2, 3])
    np.testing.assert_array_equal(stage_tokens(config, cells, 1)[0], [4, 0])
