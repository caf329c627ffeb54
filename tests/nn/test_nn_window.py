"""Windows, shifts and positions against plain loops over pixels."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowered_step import products

from mim_jax.nn.patches import pixel_shuffle
from mim_jax.nn.relative import relative_index
from mim_jax.nn.window import (
    WindowAttention,
    from_windows,
    log_coordinates,
    roll,
    shift_mask,
    to_windows,
    unit_length,
)


def test_windows_hold_their_squares_and_come_back():
    grid, window = (4, 6), (2, 3)
    x = jnp.arange(24.0).reshape(1, 24, 1)
    windows = to_windows(x, grid, window)[0, :, :, 0]
    np.testing.assert_array_equal(windows, [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11], *np.asarray(windows[2:])])
    np.testing.assert_array_equal(from_windows(to_windows(x, grid, window), grid, window), x)


def test_roll_moves_up_and_left():
    x = jnp.arange(12.0).reshape(1, 12, 1)
    moved = roll(x, (3, 4), 1).reshape(3, 4)
    assert float(moved[0, 0]) == 5.0 and float(moved[2, 3]) == 0.0
    np.testing.assert_array_equal(roll(roll(x, (3, 4), 2), (3, 4), -2), x)


@pytest.mark.parametrize("grid, window, shift", [((8, 12), 4, 2), ((6, 9), 3, 1)])
def test_only_true_neighbours_attend(grid, window, shift):
    """A pair may attend if both come from one window-sized block of the unrolled image, cut where it was cut."""
    mask = shift_mask(grid, (window, window), shift)
    tokens = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(1, -1, 2).astype(np.float32)
    origin = np.asarray(to_windows(roll(jnp.asarray(tokens), grid, shift), grid, (window, window)))[0]
    for windows, allowed in zip(origin, mask, strict=True):
        for (i, a), (j, b) in itertools.product(enumerate(windows), repeat=2):
            assert (allowed[i, j] == 0.0) == (np.abs(a - b).max() < window)
    assert set(np.unique(mask)) == {-100.0, 0.0}


def test_log_coordinates():
    table = log_coordinates((3, 2)).reshape(5, 3, 2)
    np.testing.assert_allclose(table[:, 0, 0], [-math.log2(9) / 3, -math.log2(5) / 3, 0, math.log2(5) / 3, 1.0566417])
    np.testing.assert_allclose(table[0, :, 1], [-math.log2(9) / 3, 0, math.log2(9) / 3], rtol=1e-6)
    wider = log_coordinates((5, 5), pretrained=(3, 3)).reshape(9, 9, 2)
    np.testing.assert_allclose(wider[-1, 0, 0], math.log2(17) / 3, rtol=1e-6)
    assert np.isfinite(log_coordinates((1, 1))).all()


def test_unit_length_of_nothing_is_nothing():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_length(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: unit_length(x).sum())(x)).all()


@pytest.mark.parametrize("cosine", [False, True])
def test_attention_token_by_token(cosine):
    """One head, shifted windows: every token looks at the tokens of its window that are its neighbours."""
    grid, window, shift, width = (4, 6), 2, 1, 4
    module = WindowAttention(grid, (window, window), shift, heads=1, cosine=cosine)
    x = jax.random.normal(jax.random.key(0), (1, 24, width))
    shapes = jax.eval_shape(module.init, jax.random.key(1), x)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    variables = jax.tree.unflatten(tree, [jax.random.normal(k, s.shape) for k, s in zip(keys, leaves, strict=True)])
    if cosine:
        variables["params"]["logit_scale"] = jnp.full((1, 1, 1), 7.0)  # above log 100, where it is cut
    found = np.asarray(module.apply(variables, x))[0]

    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    bias = np.concatenate([p["q_bias"], np.zeros(width), p["v_bias"]]) if cosine else p["qkv"]["bias"]
    q, k, v = np.split(np.asarray(x[0], np.float64) @ p["qkv"]["kernel"] + bias, 3, axis=-1)
    if cosine:
        q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
        mlp = p["position_mlp"]
        hidden = np.maximum(log_coordinates((2, 2)) @ mlp["fc1"]["kernel"] + mlp["fc1"]["bias"], 0)
        table = 16 / (1 + np.exp(-(hidden @ mlp["fc2"]["kernel"])))
    else:
        table = p["relative_bias"]["table"]
    index, expected = relative_index((2, 2), cls_token=False), np.zeros((24, width))
    for i, j in itertools.product(range(4), range(6)):
        # Windows begin at odd rows and columns; what is outside the image comes from the other side, but is masked.
        top, left = (i - shift) // 2 * 2 + shift, (j - shift) // 2 * 2 + shift
        near = [(a, b) for a in (top, top + 1) for b in (left, left + 1) if 0 <= a < 4 and 0 <= b < 6]
        query = (i - top) * 2 + j - left
        scores = []
        for a, b in near:
            scale = 100.0 if cosine else width**-0.5
            position = table[index[query, (a - top) * 2 + b - left], 0]
            scores.append(q[i * 6 + j] @ k[a * 6 + b] * scale + position)
        weights = np.exp(np.array(scores) - max(scores))
        expected[i * 6 + j] = weights @ np.stack([v[a * 6 + b] for a, b in near]) / weights.sum()
    expected = expected @ p["proj"]["kernel"] + p["proj"]["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_pixel_shuffle_has_the_channel_slowest():
    values = jnp.arange(2 * 12.0).reshape(1, 2, 12)  # two patches of 2 x 2 pixels, 3 channels
    image = pixel_shuffle(values, (2, 2), (1, 2))
    assert image.shape == (1, 2, 4, 3)
    np.testing.assert_array_equal(image[0, :, :2, 0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(image[0, 1, 3], [15, 19, 23])


def test_bfloat16_multiplies_in_bfloat16_backwards_too():
    module = WindowAttention((4, 4), (2, 2), 1, 2, dtype=jnp.bfloat16)
    x = jnp.ones((2, 16, 8), jnp.bfloat16)
    params = module.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda p, x: module.apply(p, x).sum(), argnums=(0, 1)))
    found = products(gradient.lower(params, x).as_text(debug_info=True))
    assert len(found) > 8 and all(set(p.types) == {"bf16"} and not p.widened for p in found)
