"""The probe's head against the authors' numbers and against plain numpy."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mim_jax.models.probe import LinearProbe, ProbeNorm


def relative(found, expected) -> float:
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


@pytest.fixture
def case(shared):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    folder = shared / "goldens" / "mae" / "linear_probe"
    weights = safetensors.load_file(folder / "weights.safetensors")
    strict = json.loads((folder / "case.json").read_text())["tolerance"]["strict"]
    return weights, np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz"), strict


def test_reference_case_training_step(case):
    weights, inputs, expected, strict = case
    params = {"head": {"kernel": jnp.asarray(weights["head.1.weight"].T), "bias": jnp.asarray(weights["head.1.bias"])}}
    statistics = {"mean": weights["head.0.running_mean"], "var": weights["head.0.running_var"]}
    variables = {"batch_stats": {"norm": jax.tree.map(jnp.asarray, statistics)}}
    features, labels = jnp.asarray(expected["features"]), jnp.asarray(inputs["labels"])

    def loss_of(params):
        logits, moved = LinearProbe(6).apply(
            {"params": params, **variables}, features, train=True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (logits, moved["batch_stats"])

    with jax.default_matmul_precision("highest"):
        (loss, (logits, moved)), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    assert relative(logits, expected["logits"]) < strict
    assert relative(loss, expected["loss"]) < strict
    assert relative(moved["norm"]["mean"], expected["running_mean_after"]) < strict
    assert relative(moved["norm"]["var"], expected["running_var_after"]) < strict
    leaf = {"head.1.weight": "kernel", "head.1.bias": "bias"}
    names = [leaf[name] for name in expected["grad_names"]]
    norms = [np.linalg.norm(gradient["head"][name]) for name in names]
    dots = [np.sum(gradient["head"][name] * params["head"][name]) for name in names]
    assert relative(norms, expected["grad_norms"]) < 10 * strict
    assert relative(dots, expected["grad_dot_weight"]) < 10 * strict


def test_norm_uses_running_statistics_at_evaluation():
    features = np.random.default_rng(0).normal(3.0, 2.0, (5, 4)).astype(np.float32)
    statistics = {"mean": np.arange(4.0, dtype=np.float32), "var": np.full(4, 4.0, np.float32)}
    out = ProbeNorm().apply({"batch_stats": statistics}, jnp.asarray(features), train=False)
    np.testing.assert_allclose(out, (features - np.arange(4.0)) / np.sqrt(4.0 + 1e-6), rtol=1e-6)


def test_running_variance_is_unbiased():
    features = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    norm = ProbeNorm()
    variables = norm.init(jax.random.key(0), jnp.asarray(features), train=True)
    _, moved = norm.apply(variables, jnp.asarray(features), train=True, mutable=["batch_stats"])
    expected = 0.9 * 1.0 + 0.1 * features.var(axis=0, ddof=1)
    np.testing.assert_allclose(moved["batch_stats"]["var"], expected, rtol=1e-5)


def test_head_starts_as_published():
    variables = LinearProbe(50).init(jax.random.key(0), jnp.ones((4, 400)), train=True)
    kernel = np.asarray(variables["params"]["head"]["kernel"])
    assert abs(kernel.std() - 0.01) < 2e-4
    assert not np.any(variables["params"]["head"]["bias"])
    assert not np.any(variables["batch_stats"]["norm"]["mean"])
