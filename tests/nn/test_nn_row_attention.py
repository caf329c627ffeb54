"""The TPU kernel, run step by step on CPUs, against attention by XLA; and where it is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mim_jax.nn import row_attention as rows
from mim_jax.nn.attention import SelfAttention
from mim_jax.nn.target import compiled_for


def mesh(count=1, axes=("data", "tensor"), shape=None):
    return Mesh(np.asarray(jax.devices()[:count]).reshape(shape or (count, 1)), axes)


def layer(heads=2, width=16, batch=8, tokens=5, **settings):
    module = SelfAttention(heads, **settings)
    x = jax.random.normal(jax.random.key(0), (batch, tokens, width), settings.get("dtype", jnp.float32))
    params = module.init(jax.random.key(1), x)
    return module, jax.tree.map(lambda p: p + 0.1, params), x


def loss(module, params, x):
    out = module.apply(params, x).astype(jnp.float32)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum()


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize(
    "settings", [dict(), dict(heads=4, width=32, tokens=13), dict(qkv_bias="qv", norm_epsilon=1e-6)]
)
def test_as_by_xla_with_gradients(devices, settings, monkeypatch):
    module, params, x = layer(**settings)
    step = jax.value_and_grad(loss, (1, 2))
    expected = step(module, params, x)
    called = []
    monkeypatch.setattr("mim_jax.nn.attention.row_attention", lambda *a: called.append(1) or rows.row_attention(*a))
    with compiled_for(mesh(devices), ("data",), interpret=True):
        found = jax.jit(lambda params, x: step(module, params, x))(params, x)
    assert called
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, expected)


def test_bfloat16():
    module, params, x = layer(dtype=jnp.bfloat16)
    expected = jax.grad(loss, 2)(module, params, x)
    with compiled_for(mesh(), ("data",), interpret=True):
        found = jax.grad(loss, 2)(module, params, x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), expected.astype(jnp.float32), atol=0.05)


@pytest.mark.parametrize(
    "where, shape",
    [
        (None, (8, 5, 48)),  # nobody said where the program will run
        (dict(count=1), (8, 5, 48)),  # not on TPUs
        (dict(count=2, shape=(1, 2), interpret=True), (8, 5, 48)),  # heads are split
        (dict(count=4, interpret=True), (6, 5, 48)),  # the batch cannot be
        (dict(count=1, interpret=True), (8, 1025, 3072)),  # the scores do not fit
    ],
)
def test_where_it_does_not_serve(where, shape):
    qkv = jnp.zeros(shape, jnp.bfloat16)
    if where is None:
        assert not rows.serves(qkv, 2)
        return
    where = dict(where)
    interpret = where.pop("interpret", False)
    with compiled_for(mesh(**where), ("data",), interpret):
        assert not rows.serves(qkv, 2)


def test_a_program_for_tpus_holds_the_kernel_and_no_scores():
    module, params, x = layer(dtype=jnp.bfloat16, tokens=7)
    with compiled_for(mesh(), ("data",)):
        here = jax.jit(lambda p, x: jax.grad(loss, 1)(module, p, x)).lower(params, x).as_text()
    assert "tpu_custom_call" not in here and "2x7x7" in here
    with compiled_for(mesh(), ("data",), interpret=False) as _, pytest.MonkeyPatch.context() as patch:
        patch.setattr("mim_jax.nn.target.Target.on_tpu", True)
        traced = jax.jit(lambda p, x: jax.grad(loss, 1)(module, p, x)).trace(params, x)
        there = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert there.count("tpu_custom_call") == 2 and "7x7x" not in there
