"""LARS against the authors' steps and against the algorithm in NumPy."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mim_jax.training.lars import matrices, scale_by_lars


def numpy_lars(w, gradients, lrs, *, momentum, trust, decay):
    """The algorithm for one parameter, in float64."""
    w, buffer = np.asarray(w, np.float64), 0.0
    for g, lr in zip(gradients, lrs, strict=True):
        g = np.asarray(g, np.float64)
        if w.ndim > 1:
            g = g + decay * w
            norms = np.linalg.norm(w), np.linalg.norm(g)
            g = g * (trust * norms[0] / norms[1] if min(norms) > 0 else 1.0)
        buffer = momentum * buffer + g
        w = w - lr * buffer
    return w


def run(params, gradients, lrs, *, momentum=0.9, trust=0.001, decay=0.0):
    direction = scale_by_lars(momentum, trust, decay, matrices)
    state, history = direction.init(params), []
    for g, lr in zip(gradients, lrs, strict=True):
        updates, state = direction.update(g, state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u, lr=lr: -lr * u, updates))
        history.append(params)
    return history


def test_reference_steps(shared):
    case = shared / "goldens/mae/lars"
    config, expected = json.loads((case / "case.json").read_text()), np.load(case / "outputs.npz")
    inputs, c = np.load(case / "inputs.npz"), config["config"]
    params = {"w": jnp.asarray(inputs["w0"]), "b": jnp.asarray(inputs["b0"])}
    gradients = [{"w": jnp.asarray(w), "b": jnp.asarray(b)} for w, b in zip(inputs["gw"], inputs["gb"], strict=True)]
    settings = {"momentum": c["momentum"], "trust": c["trust_coefficient"], "decay": c["weight_decay"]}
    history = run(params, gradients, [c["lr"]] * c["steps"], **settings)
    for name in ("w", "b"):
        got = np.stack([np.asarray(p[name]) for p in history])
        error = np.abs(got - expected[name]).max() / np.abs(expected[name]).max()
        assert error < config["tolerance"]["strict"], name


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_against_numpy_with_a_changing_rate(decay):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(5, 7)), "b": rng.normal(size=7), "token": rng.normal(size=(1, 1, 4))}
    params = {name: value.astype(np.float32) for name, value in params.items()}
    gradients = [{name: rng.normal(size=v.shape).astype(np.float32) for name, v in params.items()} for _ in range(4)]
    lrs = [0.0, 0.5, 2.0, 0.1]
    last = run(jax.tree.map(jnp.asarray, params), gradients, lrs, momentum=0.8, trust=0.02, decay=decay)[-1]
    for name, value in params.items():
        wanted = numpy_lars(value, [g[name] for g in gradients], lrs, momentum=0.8, trust=0.02, decay=decay)
        np.testing.assert_allclose(last[name], wanted, rtol=2e-5, atol=1e-7, err_msg=name)


def test_zero_norms_have_trust_one():
    """A head that starts at zero must still move, and at the plain rate."""
    history = run({"w": jnp.zeros((2, 2))}, [{"w": jnp.ones((2, 2))}], [0.5])
    np.testing.assert_array_equal(history[-1]["w"], -0.5)
    history = run({"w": jnp.ones((2, 2))}, [{"w": jnp.zeros((2, 2))}], [0.5])
    np.testing.assert_array_equal(history[-1]["w"], 1.0)
