"""The linear probe against the same recipe written out in numpy, and its manners."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import recipes
from mim_jax.errors import ConfigError
from mim_jax.evaluation import encoders, linear
from mim_jax.evaluation.features import FeatureSet
from mim_jax.evaluation.knn import KNN
from mim_jax.evaluation.linear import Linear
from mim_jax.evaluation.protocol import Task, top

PROBE = Linear(
    epochs=4.0, warmup_epochs=1.5, batch_size=8, lr=2.0, lr_batch=16, weight_decay=0.1, trust_coefficient=0.05
)


def clusters(count=35, width=6, classes=3, seed=0, spread=0.7):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(size=(classes, width)) * 2 + 5
    return (centres[labels] + spread * random.normal(size=(count, width))).astype(np.float32), labels


def task_of(train, held_out, said=None):
    """A task whose features are given, under the one name that the pixel encoder has."""
    task = Task(
        encoders.raw_pixels(), recipes.pretrain().data, ("cls",), say=[].append if said is None else said.append
    )
    for name, (features, labels) in (("train", train), ("held_out", held_out)):
        task.__dict__[name] = FeatureSet({"pixels": features}, labels, np.arange(len(labels)))
    return task


def by_hand(plan, state, features, labels, orders):
    """The recipe in float64: batch norm, softmax regression, LARS with its momentum before the learning rate."""
    probe = plan.probe
    weight, bias = (np.asarray(state.params["head"][name], np.float64) for name in ("kernel", "bias"))
    mean, var = np.zeros(features.shape[1]), np.ones(features.shape[1])
    weight_momentum, bias_momentum = np.zeros_like(weight), np.zeros_like(bias)
    step = 0
    for order in orders:
        for start in range(0, len(order) - plan.batch + 1, plan.batch):
            rows = order[start : start + plan.batch]
            x = features[rows].astype(np.float64)
            mean, var = 0.9 * mean + 0.1 * x.mean(0), 0.9 * var + 0.1 * x.var(0, ddof=1)
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
            logits = x @ weight + bias
            chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            error = (chance - np.eye(plan.classes)[labels[rows]]) / len(rows)
            gradient = x.T @ error + probe.weight_decay * weight
            trust = probe.trust_coefficient * np.linalg.norm(weight) / np.linalg.norm(gradient)
            weight_momentum = probe.momentum * weight_momentum + trust * gradient
            bias_momentum = probe.momentum * bias_momentum + error.sum(0)
            epoch = step / plan.steps_per_epoch
            share = (epoch - probe.warmup_epochs) / (probe.epochs - probe.warmup_epochs)
            warm = epoch / probe.warmup_epochs
            rate = plan.peak * (warm if epoch < probe.warmup_epochs else (1 + math.cos(math.pi * share)) / 2)
            weight, bias = weight - rate * weight_momentum, bias - rate * bias_momentum
            step += 1
    return weight, bias, mean, var


def test_training_equals_the_recipe_by_hand():
    features, labels = clusters()
    plan = PROBE.plan(len(features), 3)
    assert (plan.batch, plan.steps_per_epoch, plan.peak) == (8, 4, 1.0)
    state = plan.init(jax.random.key(0), 6)
    keys = [jax.random.key(10 + epoch) for epoch in range(4)]
    expected = by_hand(plan, state, features, labels, [np.asarray(jax.random.permutation(key, 35)) for key in keys])
    for key in keys:
        state, _ = linear.train_epoch(plan, state, jnp.asarray(features), jnp.asarray(labels), key)
    found = (
        state.params["head"]["kernel"],
        state.params["head"]["bias"],
        state.batch_stats["norm"]["mean"],
        state.batch_stats["norm"]["var"],
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


def test_a_separable_problem_is_solved_and_chance_is_not():
    numbers = dataclasses.replace(PROBE, epochs=20.0).run(task_of(clusters(), clusters(60, seed=1)))
    assert numbers.metrics == {"top1": 1.0}
    assert numbers.counts == {"train": 35, "eval": 60, "classes": 3}
    noise = np.random.default_rng(2).normal(size=(600, 6)).astype(np.float32)
    chance = PROBE.run(task_of(clusters(), (noise, np.arange(600) % 3)))
    assert abs(chance.metrics["top1"] - 1 / 3) < 0.1


def test_a_batch_larger_than_the_data_is_clipped_and_said():
    said = []
    numbers = dataclasses.replace(PROBE, batch_size=4096).run(task_of(clusters(), clusters(seed=1), said))
    assert numbers.settings == {"batch_size": 35, "peak_lr": 2.0 * 35 / 16}
    assert "4096 is more than the 35 training images" in said[0]
    assert PROBE.run(task_of(clusters(), clusters(seed=1))).settings == {}


def test_the_seed_decides():
    task = task_of(clusters(spread=3.0), clusters(90, seed=1, spread=3.0))
    first, again = PROBE.run(task), PROBE.run(task)
    task.seed = 1
    assert first == again and PROBE.run(task).details != first.details


def test_divergence_is_a_sentence():
    with pytest.raises(ConfigError, match="diverged .* lower evaluation.linear.lr"):
        dataclasses.replace(PROBE, lr=1e30).run(task_of(clusters(), clusters(seed=1)))


def test_top_counts_first_and_first_five():
    ranked = np.asarray([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [5, 4, 3, 2, 1], [1, 2, 3, 4, 5]])
    assert top(ranked, np.asarray([0, 0, 6, 5]), 7) == {"top1": 0.25, "top5": 0.75}
    assert top(ranked[:, :3], np.asarray([0, 0, 6, 5]), 3) == {"top1": 0.25}


@pytest.mark.parametrize(
    ("section", "key", "value", "sentence"),
    [
        ("linear", "batch_size", 1, "needs 2 or more"),
        ("linear", "warmup_epochs", 90.0, "warmup_epochs = 90.0 must be from 0 to below"),
        ("linear", "lr", 0.0, "lr = 0.0 must be above 0"),
        ("linear", "feature", "clss", "did you mean 'cls'"),
        ("knn", "k", (0, 5), "k = .* must be one or more numbers from 1 on"),
        ("knn", "temperature", -1.0, "temperature = -1.0 must be 0"),
        ("knn", "feature", "poold", "did you mean 'pooled'"),
    ],
)
def test_impossible_settings(section, key, value, sentence):
    evaluation = recipes.pretrain().evaluation
    evaluation[section][key] = value
    with pytest.raises(ConfigError, match=sentence):
        {"linear": Linear, "knn": KNN}[section].from_config(evaluation)


def test_settings_come_from_the_recipe():
    evaluation = recipes.pretrain().evaluation
    assert Linear.from_config(evaluation) == Linear()
    evaluation.linear.epochs = 50.0
    assert Linear.from_config(evaluation).epochs == 50.0
