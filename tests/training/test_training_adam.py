"""Adam's direction against optax's, and a state that stands still."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mim_jax.training.adam import scale_by_adam


def test_as_optax_and_still_where_nothing_moves():
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32), "b": jnp.zeros(4)}
    ours, theirs = scale_by_adam(0.9, 0.95, 1e-8), optax.scale_by_adam(0.9, 0.95, 1e-8)
    state, other = ours.init(params), theirs.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for _ in range(4):
        gradient = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        bad = jax.tree.map(lambda g: g * jnp.nan, gradient)
        _, still = jax.jit(ours.update)(bad, state, moved=jnp.asarray(False))
        jax.tree.map(np.testing.assert_array_equal, still, state)
        direction, state = jax.jit(ours.update)(gradient, state, moved=jnp.asarray(True))
        expected, other = jax.jit(theirs.update)(gradient, other)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=0), direction, expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=0), state, other)
    assert int(state.count) == 4
