"""A tiny encoder for the tests of the evaluations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.methods.mae import MAE


@pytest.fixture(scope="session")
def build():
    """build(**tiny) -> (method, variables): random weights of the right shapes, without compiling `init`."""

    def build(**tiny):
        method = MAE.tiny(**tiny)
        images = jnp.zeros((1, *method.model.image_size, method.model.channels))
        shapes = jax.eval_shape(method.init, jax.random.key(0), {"image": images})
        random = np.random.default_rng(3)
        return method, jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.3, s.shape), s.dtype), shapes)

    return build
