"""Masked dense layers compute what sparse ones do: against gathered positions in numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.nn.sparse import BatchNorm, conv, keep, spread

RNG = np.random.default_rng(0)
ACTIVE = np.array([[[1, 0, 1], [0, 0, 1]], [[0, 1, 1], [1, 0, 0]]], bool)  # (2, 2, 3) cells
PLACES = np.repeat(np.repeat(ACTIVE, 2, 1), 2, 2)  # (2, 4, 6)
X = RNG.normal(size=(2, 4, 6, 5)).astype(np.float32)


def test_cells_are_spread_by_repetition():
    np.testing.assert_array_equal(spread(jnp.asarray(ACTIVE), (4, 6))[..., 0], PLACES)
    x = jnp.asarray(X)
    np.testing.assert_array_equal(keep(x, jnp.asarray(ACTIVE)), X * PLACES[..., None])
    assert keep(x, None) is x


@pytest.mark.parametrize("kernel, groups", [(3, 1), (1, 1), (7, 5)])
def test_convolution_equals_gathered_neighbourhoods(kernel, groups):
    """Submanifold sparse: only active places compute, and they see active neighbours only."""
    layer = conv("conv", 5, kernel, groups=groups, bias=True)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 4, 6, 5)))
    params = jax.tree.map(lambda p: p + 0.1, params)
    weight, bias = np.asarray(params["params"]["kernel"], np.float64), np.asarray(params["params"]["bias"])
    active = jnp.asarray(ACTIVE)
    found = np.asarray(keep(layer.apply(params, keep(jnp.asarray(X), active)), active))
    expected, reach = np.zeros((2, 4, 6, 5)), kernel // 2
    for b, r, c in np.argwhere(PLACES):
        total = bias.astype(np.float64).copy()
        for b2, r2, c2 in np.argwhere(PLACES):
            if b2 == b and abs(r2 - r) <= reach and abs(c2 - c) <= reach:
                tap, x = weight[r2 - r + reach, c2 - c + reach], X[b, r2, c2]
                total += x @ tap if groups == 1 else x * tap[0]
        expected[b, r, c] = total
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("active", [None, ACTIVE])
def test_batch_norm_over_gathered_positions(active):
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), jnp.asarray(X))
    assert not variables["batch_stats"]["mean"].any() and (variables["batch_stats"]["var"] == 1).all()
    scale, bias = RNG.normal(size=5), RNG.normal(size=5)
    variables["params"] = {"scale": jnp.asarray(scale, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    cells = None if active is None else jnp.asarray(active)
    found, moved = layer.apply(variables, 3 + 2 * jnp.asarray(X), cells, mutable=["batch_stats"])
    places = np.ones_like(PLACES) if active is None else PLACES
    rows = 3 + 2 * X[places].astype(np.float64)
    expected = np.zeros(X.shape)
    expected[places] = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * scale + bias
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["var"], rows.var(0, ddof=1), rtol=1e-5)


def test_batch_norm_ignores_what_is_hidden_even_if_it_is_not_a_number():
    layer, active = BatchNorm(), jnp.asarray(ACTIVE)
    variables = layer.init(jax.random.key(0), jnp.asarray(X))
    spoilt = np.where(PLACES[..., None], X, np.nan)
    outs = [layer.apply(variables, jnp.asarray(x), active, mutable=["batch_stats"]) for x in (X, spoilt)]
    jax.tree.map(np.testing.assert_array_equal, *outs)


def test_running_statistics_are_used_and_kept():
    layer = BatchNorm(running=True)
    stats = {"mean": jnp.arange(5.0), "var": jnp.arange(1.0, 6.0)}
    params = {"scale": jnp.ones(5), "bias": jnp.zeros(5)}
    found, moved = layer.apply({"params": params, "batch_stats": stats}, jnp.asarray(X), mutable=["batch_stats"])
    np.testing.assert_allclose(found, (X - np.arange(5)) / np.sqrt(np.arange(1, 6) + 1e-5), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], stats)
