"""Patches, positions, attention, drop path, pixels: against numpy, torch-free formulas and reference cases."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.nn.attend import attend
from mim_jax.nn.drop_path import drop_path, drop_path_rates
from mim_jax.nn.images import denormalize, normalize
from mim_jax.nn.patches import patch_grid, patchify, unpatchify
from mim_jax.nn.positions import cubic_matrix, resize_positions, sincos_2d


def test_patchify_runs_over_row_column_channel():
    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(np.float32)
    patches = patchify(jnp.asarray(images), (2, 3))
    assert patches.shape == (2, 4, 18)
    np.testing.assert_array_equal(patches[1, 3], images[1, 2:4, 3:6].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, (2, 3), (2, 2)), images)


@pytest.mark.parametrize("size, patch, nearest", [((224, 224), (15, 15), 14), ((32, 48), (4, 5), 4)])
def test_a_patch_that_does_not_divide_is_refused(size, patch, nearest):
    with pytest.raises(
        ConfigError, match=rf"patch of {patch[1]} does not divide.*nearest patch that does is {nearest}"
    ):
        patch_grid(size, patch)


def test_sincos_first_half_is_the_column():
    table = sincos_2d((3, 5), 8)
    assert table.shape == (16, 8) and table.dtype == np.float32 and not table[0].any()
    row, column = 2, 3
    expected = []
    for position in (column, row):
        angles = [position / 10000 ** (k / 2) for k in range(2)]
        expected += [np.sin(angles[0]), np.sin(angles[1]), np.cos(angles[0]), np.cos(angles[1])]
    np.testing.assert_allclose(table[1 + row * 5 + column], expected, rtol=1e-6)


def test_cubic_matrix_reproduces_polynomials_and_copies_at_equal_size():
    np.testing.assert_allclose(cubic_matrix(7, 7), np.eye(7), atol=1e-7)
    np.testing.assert_allclose(cubic_matrix(6, 10).sum(1), 1.0, rtol=1e-6)
    inner = cubic_matrix(40, 80)[10:-10] @ np.arange(40.0)
    np.testing.assert_allclose(inner, (np.arange(80) + 0.5)[10:-10] / 2 - 0.5, atol=0.05)


def test_resize_positions_against_the_reference(shared):
    case = shared / "goldens" / "mae" / "pos_resize_up"
    config = json.loads((case / "case.json").read_text())["config"]
    table = jnp.asarray(np.load(case / "inputs.npz")["pos_embed"])
    expected = np.load(case / "outputs.npz")["pos_embed_resized"]
    sides = [(config[name],) * 2 for name in ("grid_from", "grid_to")]
    np.testing.assert_allclose(resize_positions(table, *sides), expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(ConfigError, match="give its true grid"):
        resize_positions(table, (5, 6), (10, 10))


def test_attention_against_numpy():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 4, 5, 8)).astype(np.float32)
    bias = rng.normal(size=(1, 4, 5, 5)).astype(np.float32)
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(8) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(attend(*map(jnp.asarray, (q, k, v, bias))), expected, rtol=1e-5, atol=1e-6)


def test_drop_path_keeps_the_mean_and_drops_whole_images():
    noise = jnp.linspace(0.0, 1.0, 1000, endpoint=False)
    out = drop_path(jnp.ones((1000, 3, 2)), noise, 0.3)
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.7)}
    np.testing.assert_allclose(out.mean(), 1.0, rtol=1e-3)
    assert (np.ptp(np.asarray(out), axis=(1, 2)) == 0).all()
    np.testing.assert_array_equal(drop_path(jnp.ones((2, 3)), None, 0.5), np.ones((2, 3)))
    np.testing.assert_allclose(drop_path_rates(0.3, 4), [0, 0.1, 0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535)])
def test_normalize_and_back(dtype, top):
    pixels = np.random.default_rng(0).integers(0, top, (2, 3, 4, 3)).astype(dtype)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    out = normalize(jnp.asarray(pixels), mean, std)
    np.testing.assert_allclose(out, (pixels / top - np.array(mean)) / np.array(std), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(denormalize(out, mean, std) * top, pixels, rtol=1e-4, atol=top * 1e-5)


def test_bfloat16_logits_are_summed_in_float32():
    q = jnp.ones((1, 1, 1, 512), jnp.bfloat16)
    jaxpr = str(jax.make_jaxpr(attend)(q, q, q))
    assert "preferred_element_type=float32" in jaxpr
