"""Assignment to prototypes against numpy, and its limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.losses.prototypes import PrototypeLoss, entropy_gap, log_assignment, sharpen, sinkhorn, use_of


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assignment(embeddings, prototypes, temperature, smoothing=0.0):
    """In float64."""
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (embeddings.astype(float), prototypes.astype(float)))
    p = np.exp(a @ b.T / temperature)
    p /= p.sum(-1, keepdims=True)
    return (1 - smoothing) * p + smoothing / len(prototypes)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_assignment_against_numpy(smoothing):
    x, q = random(6, 3, 5), random(7, 5, seed=1)
    found = jnp.exp(log_assignment(jnp.asarray(x), jnp.asarray(q), 0.3, smoothing))
    np.testing.assert_allclose(found, assignment(x, q, 0.3, smoothing), rtol=1e-5)


def test_assignment_knows_directions_alone():
    x, q = random(4, 5), random(6, 5, seed=1)
    a, b = (log_assignment(jnp.asarray(x * s), jnp.asarray(q / s), 0.1) for s in (1.0, 100.0))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_sharpening_is_a_power():
    p = assignment(random(4, 5), random(6, 5, seed=1), 1.0)
    expected = p**4 / (p**4).sum(1, keepdims=True)
    np.testing.assert_allclose(sharpen(jnp.log(jnp.asarray(p)), 0.25), expected, rtol=1e-5)


def test_sinkhorn_uses_all_prototypes_alike():
    p = assignment(random(64, 5), random(8, 5, seed=1), 0.5)
    few, many = (np.asarray(sinkhorn(jnp.asarray(p, jnp.float32), n)) for n in (1, 100))
    np.testing.assert_allclose(many.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(many.mean(0), 1 / 8, rtol=1e-3)
    assert np.ptp(few.mean(0)) < np.ptp(p.mean(0))


def test_entropy_gap_is_zero_where_all_are_used_alike_and_log_k_for_one():
    one = jnp.log(jax.nn.one_hot(jnp.zeros(5, int), 6) + 1e-30)
    each = jnp.log(jax.nn.one_hot(jnp.arange(6), 6) + 1e-30)
    np.testing.assert_allclose(entropy_gap(one), np.log(6), rtol=1e-5)
    np.testing.assert_allclose(entropy_gap(each), 0.0, atol=1e-5)
    assert bool(jnp.isfinite(jax.grad(entropy_gap)(one)).all())


def test_the_loss_against_numpy():
    x, t, q = random(4, 3, 5), random(4, 5, seed=1), random(6, 5, seed=2)
    loss = PrototypeLoss(0.2, 0.5, 0.25, sinkhorn=0, memax_weight=0.7, entropy_weight=0.3)
    value, terms, arrays = loss(*map(jnp.asarray, (x, t, q)), share=0.5)
    p, heat = assignment(x, q, 0.2), 0.5 - 0.25 * 0.5 / 1.25
    target = assignment(t, q, 0.2) ** (1 / heat)
    target /= target.sum(1, keepdims=True)
    np.testing.assert_allclose(arrays["target"], target, rtol=1e-4)
    mean = p.mean((0, 1))
    cross, entropy = -(target[:, None] * np.log(p)).sum(-1).mean(), -(p * np.log(p)).sum(-1).mean()
    gap = np.log(6) + (mean * np.log(mean)).sum()
    for name, expected in dict(cross_entropy=cross, entropy=entropy, memax=gap).items():
        np.testing.assert_allclose(terms[name], expected, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(value, cross + 0.7 * gap + 0.3 * entropy, rtol=1e-4)


def test_targets_carry_no_gradient():
    x, t, q = (jnp.asarray(random(*shape)) for shape in ((4, 2, 5), (4, 5), (6, 5)))
    gradient = jax.grad(lambda t: PrototypeLoss()(x, t, q)[0])(t)
    assert not gradient.any()


def test_use_counts_first_choices():
    found = use_of(jnp.asarray([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]))
    assert found["prototypes_used"] == 2
    np.testing.assert_allclose(found["target_certainty"], 0.7, rtol=1e-6)


@pytest.mark.parametrize(
    "values, sentence",
    [
        (dict(temperature=0.0), "method.assignment.temperature 0.0 must be positive, such as 0.1"),
        (dict(sharpening_end=-1.0), "method.assignment.sharpening_end -1.0 must be positive"),
        (dict(sinkhorn=-1), "method.assignment.sinkhorn -1 must be 0 or more"),
        (dict(label_smoothing=1.0), "method.assignment.label_smoothing 1.0 must be at least 0 and below 1"),
        (dict(memax=1.0), "method.assignment.memax is not a setting .*valid: entropy_weight"),
    ],
)
def test_bad_settings_are_refused(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        PrototypeLoss.from_section(values)
