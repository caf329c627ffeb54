"""The gradient of a depthwise convolution on a mesh with a tensor axis, which XLA's partitioner gets wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mim_jax.nn.sparse import conv
from mim_jax.nn.target import compiled_for
from mim_jax.training.sharding import BATCH_AXES, make_mesh


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_gradients_are_those_of_one_device(sizes):
    x = jax.random.normal(jax.random.key(0), (8, 6, 10, 8))
    module = conv("", 8, 5, 1, 8, bias=True)
    params = module.init(jax.random.key(1), x)

    def loss(params, x):
        return jnp.square(module.apply(params, x)).sum()

    expected = jax.grad(loss, (0, 1))(params, x)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1, **sizes})
    split = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    with compiled_for(mesh, BATCH_AXES):
        found = jax.jit(jax.grad(loss, (0, 1)), in_shardings=(NamedSharding(mesh, PartitionSpec()), split))(params, x)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
