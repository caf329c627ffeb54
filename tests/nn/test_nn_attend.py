"""Attention and layer norm whose backward pass is written by hand, against automatic differentiation and numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mim_jax.nn.attend import attend, padding_bias
from mim_jax.nn.materialize import CPU_OPTIONS, materialized
from mim_jax.nn.mlp import gelu
from mim_jax.nn.norms import layer_norm


def arrays(*shapes, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)]


def plain(q, k, v, bias=None):
    logits = jnp.einsum("bkqd,bktd->bkqt", q, k) * q.shape[-1] ** -0.5
    return jnp.einsum("bkqt,bktd->bkqd", jax.nn.softmax(logits + (0 if bias is None else bias)), v)


@pytest.mark.parametrize("bias_shape", [None, (1, 3, 5, 7), (2, 1, 1, 7), (2, 3, 5, 7)])
def test_gradients_of_attention(bias_shape):
    q, k, v, seen, bias = arrays((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4), (2, 3, 5, 4), bias_shape or (1,))
    arguments = (q, k, v) if bias_shape is None else (q, k, v, bias)
    places = tuple(range(len(arguments)))
    found = jax.jit(jax.value_and_grad(lambda *a: (attend(*a) * seen).sum(), places))(*arguments)
    expected = jax.value_and_grad(lambda *a: (plain(*a) * seen).sum(), places)(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_padding_takes_no_part_in_the_gradient():
    q, k, v = arrays((1, 1, 3, 4), (1, 1, 4, 4), (1, 1, 4, 4))
    bias = padding_bias(jnp.array([[True, True, True, False]]))
    _, of_k, of_v = jax.grad(lambda *a: attend(*a, bias).sum(), (0, 1, 2))(q, k, v)
    np.testing.assert_array_equal(of_k[:, :, 3], 0)
    np.testing.assert_array_equal(of_v[:, :, 3], 0)


def test_no_matrix_product_of_bf16_attention_is_in_float32():
    q, k, v = arrays((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4), dtype=jnp.bfloat16)
    text = jax.jit(jax.grad(lambda *a: attend(*a).astype(jnp.float32).sum(), (0, 1, 2))).lower(q, k, v).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) >= 5
    for line in products:
        operands = line.rsplit(" : ", 1)[1].split("->")[0]
        assert "f32" not in operands.replace("bf16", ""), line


def test_layer_norm_is_flax_s_and_so_are_its_gradients():
    x, seen = arrays((3, 5, 8), (3, 5, 8))
    ours, theirs = layer_norm(None, epsilon=1e-5), nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    params = ours.init(jax.random.key(0), x)
    assert jax.tree.structure(params) == jax.tree.structure(theirs.init(jax.random.key(0), x))
    params = jax.tree.map(lambda p: p + 0.3, params)

    def loss(module, params, x):
        return (module.apply(params, 3 * x + 1) * seen).sum()

    for found, expected in zip(
        jax.tree.leaves(jax.value_and_grad(loss, (1, 2))(ours, params, x)),
        jax.tree.leaves(jax.value_and_grad(loss, (1, 2))(theirs, params, x)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_layer_norm_gives_its_gradient_in_the_type_of_its_input():
    (x,) = arrays((2, 4), dtype=jnp.bfloat16)
    module = layer_norm(None, jnp.bfloat16)
    params = module.init(jax.random.key(0), x)
    assert module.apply(params, x).dtype == jnp.bfloat16
    assert jax.grad(lambda x: module.apply(params, x).astype(jnp.float32).sum())(x).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype, close", [(jnp.float32, dict(rtol=2e-6, atol=1e-6)), (jnp.bfloat16, dict(rtol=8e-3))])
def test_gelu_and_its_derivative(dtype, close):
    x = jnp.linspace(-4, 4, 101).astype(dtype)
    wide = np.asarray(x, np.float64)
    cdf, density = scipy.stats.norm.cdf(wide), scipy.stats.norm.pdf(wide)
    value, slope = gelu(x), jax.grad(lambda x: gelu(x).astype(jnp.float32).sum())(x)
    assert value.dtype == slope.dtype == dtype
    np.testing.assert_allclose(np.asarray(value, np.float64), wide * cdf, **close)
    np.testing.assert_allclose(np.asarray(slope, np.float64), cdf + wide * density, **(close | dict(atol=2e-3)))


def test_a_materialized_value_stays_where_a_cpu_program_is_told_so():
    """And only there: elsewhere it is the identity, for the value and its gradient."""
    x = jnp.arange(3.0)

    def program(x):
        return materialized(jnp.sin(x)).sum()

    lowered = jax.jit(jax.value_and_grad(program)).lower(x)
    assert lowered.as_text().count("optimization_barrier") == 2
    kept = lowered.compile(compiler_options=CPU_OPTIONS)
    assert "opt-barrier" in kept.as_text()
    jax.tree.map(np.testing.assert_array_equal, kept(x), jax.value_and_grad(lambda x: jnp.sin(x).sum())(x))
    assert "optimization_barrier" not in jax.jit(program).lower(x).as_text()
    elsewhere = jax.jit(jax.value_and_grad(program)).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert "optimization_barrier" not in elsewhere
