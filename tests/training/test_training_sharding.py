"""Where arrays lie on a mesh, and what a step on it exchanges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from lowered_step import lower

from mim_jax.methods.registry import method_class
from mim_jax.training import hlo, sharding
from mim_jax.training.groups import flat
from mim_jax.training.sharding import make_mesh, on_every_device, replicated, to_mesh, tree_shardings

WIDE = {
    "encoder/blocks_0/attn/qkv/kernel": (256, 768),
    "encoder/blocks_0/attn/proj/kernel": (256, 256),
    "encoder/blocks_0/mlp/fc1/kernel": (256, 1024),
    "encoder/blocks_0/mlp/fc2/kernel": (1024, 256),
    "encoder/blocks_0/attn/k/kernel": (256, 256),
    "head/kernel": (256, 1001),
    "encoder/norm/scale": (256,),
}


def specs(mesh, rules=()):
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in WIDE.items()}
    return {name: tuple(s.spec) for name, s in flat(tree_shardings(shapes, mesh, rules)).items()}


def test_tensor_splits_layers_in_pairs_and_fsdp_the_other_side():
    found = specs(make_mesh({"data": -1, "fsdp": 2, "tensor": 2}))
    assert found["encoder/blocks_0/attn/qkv/kernel"] == ("tensor", "fsdp")
    assert found["encoder/blocks_0/attn/proj/kernel"] == ("tensor", "fsdp")
    assert found["encoder/blocks_0/attn/k/kernel"] == ("fsdp", "tensor")
    assert found["encoder/blocks_0/mlp/fc1/kernel"] == ("fsdp", "tensor")
    assert found["encoder/blocks_0/mlp/fc2/kernel"] == ("tensor", "fsdp")
    assert found["head/kernel"] == ("fsdp", None)  # 1001 outputs cannot be halved
    assert found["encoder/norm/scale"] == ()


@pytest.mark.parametrize(("tensor", "spec"), [(1, (None, "fsdp")), (2, (None, "tensor"))])
def test_fsdp_takes_the_side_that_tensor_leaves_it(tensor, spec):
    """A width that fsdp does not divide, such as the 1408 of a large teacher by 256, leaves the other side."""
    shapes = {"mlp": {"fc1": {"kernel": jax.ShapeDtypeStruct((255, 1024), jnp.float32)}}}
    shapes = {"blocks_0": shapes}
    made = tree_shardings(shapes, make_mesh({"data": -1, "fsdp": 2, "tensor": tensor}))
    assert tuple(made["blocks_0"]["mlp"]["fc1"]["kernel"].spec) == spec


def test_rules_of_the_config_come_first():
    found = specs(make_mesh({"data": -1, "fsdp": 2, "tensor": 2}), [("fc1/kernel", ("", "fsdp"))])
    assert found["encoder/blocks_0/mlp/fc1/kernel"] == (None, "fsdp")
    assert found["encoder/blocks_0/mlp/fc2/kernel"] == ("tensor", "fsdp")


def test_one_device_keeps_everything_whole():
    assert not any(axis for spec in specs(make_mesh({"data": 8, "fsdp": 1, "tensor": 1})).values() for axis in spec)


def test_arrays_and_keys_are_put_on_every_device():
    mesh = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    put = on_every_device({"x": np.arange(3.0)}, mesh)["x"]
    assert put.sharding == replicated(mesh) and put.sharding.spec == PartitionSpec()
    key = to_mesh(jax.random.key(3), replicated(mesh))
    assert jax.random.key_data(key).tolist() == jax.random.key_data(jax.random.key(3)).tolist()


@pytest.mark.parametrize(
    ("mesh", "kinds"),
    [
        ({"data": 2, "fsdp": 4}, {"all-gather", "all-reduce", "reduce-scatter"}),
        ({"data": 4, "tensor": 2}, {"all-gather", "all-reduce", "all-to-all"}),
    ],
)
def test_a_step_exchanges_parameters_and_no_tokens_but_sums(mesh, kinds, monkeypatch):
    """FSDP gathers parameters and sums gradients; tensor parallelism also sums what its parts found of each token, and
    puts fused kernels into the order of heads."""
    monkeypatch.setattr(sharding, "SMALL", 8)
    step = lower(method_class("mae").tiny(precision="bf16"), mesh={"data": 1, "fsdp": 1, "tensor": 1, **mesh})
    moved = hlo.Program(step.compile().as_text()).traffic()
    assert set(moved.collectives) <= kinds
    kernels = [x for name, x in flat(step.program.params).items() if name.endswith("qkv/kernel")]
    exchanged = moved.collectives.get("all-to-all", (0, 0))[1]
    assert exchanged <= 3 * sum(4 * x.size for x in kernels)
