"""Many heads at once against each head trained alone in numpy; the sweep and the curve over blocks."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import recipes
from mim_jax.errors import ConfigError
from mim_jax.evaluation import encoders, many_heads
from mim_jax.evaluation.features import FeatureSet
from mim_jax.evaluation.layers import Layers
from mim_jax.evaluation.linear_sweep import LinearSweep
from mim_jax.evaluation.many_heads import Recipe
from mim_jax.evaluation.protocol import Task
from mim_jax.methods.base import Variables


def clusters(count, width=5, classes=3, seed=0, spread=1.0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(7).normal(size=(classes, width)) * 2 + 3
    return (centres[labels] + spread * random.normal(size=(count, width))).astype(np.float32), labels


def alone(recipe, rate, x, labels, classes, key, feature, count):
    """One head in float64: SGD with momentum as torch has it, cosine per epoch, batch norm without affine."""
    weight = 0.01 * np.asarray(jax.random.normal(key, (count, 1, x.shape[1], classes)), np.float64)[feature, 0]
    bias, of_weight, of_bias = np.zeros(classes), np.zeros_like(weight), np.zeros(classes)
    mean, var = np.zeros(x.shape[1]), np.ones(x.shape[1])
    for epoch in range(recipe.epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), len(x)))
        for start in range(0, len(x) - recipe.batch + 1, recipe.batch):
            rows = order[start : start + recipe.batch]
            batch = x[rows].astype(np.float64)
            if recipe.normalize:
                mean, var = 0.9 * mean + 0.1 * batch.mean(0), 0.9 * var + 0.1 * batch.var(0, ddof=1)
                batch = (batch - batch.mean(0)) / np.sqrt(batch.var(0) + 1e-6)
            logits = batch @ weight + bias
            chance = np.exp(logits - logits.max(1, keepdims=True))
            chance /= chance.sum(1, keepdims=True)
            error = (chance - np.eye(classes)[labels[rows]]) / len(rows)
            of_weight = recipe.momentum * of_weight + batch.T @ error + recipe.weight_decay * weight
            of_bias = recipe.momentum * of_bias + error.sum(0) + recipe.weight_decay * bias
            step = rate * 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
            weight, bias = weight - step * of_weight, bias - step * of_bias
    return weight, bias, mean, var


@pytest.mark.parametrize("normalize", [False, True])
def test_heads_trained_together_equal_heads_trained_alone(normalize):
    recipe = Recipe((0.02, 0.3), epochs=3, batch=8, weight_decay=0.01, normalize=normalize)
    (first, labels), (second, _) = clusters(35), clusters(35, seed=1)
    features, key = np.stack([first, second]), jax.random.key(3)
    heads = many_heads.train(recipe, features, labels, 3, key)
    for f in range(2):
        for r, rate in enumerate(recipe.rates):
            weight, bias, mean, var = alone(recipe, rate, features[f], labels, 3, key, f, 2)
            np.testing.assert_allclose(heads.weight[f, r], weight, rtol=2e-4, atol=2e-5)
            np.testing.assert_allclose(heads.bias[f, r], bias, rtol=2e-4, atol=2e-5)
        if normalize:
            np.testing.assert_allclose(heads.mean[f], mean, rtol=1e-4)
            np.testing.assert_allclose(heads.var[f], var, rtol=1e-4)
    held_out, truth = clusters(50, seed=2)
    one, five = many_heads.accuracies(recipe, heads, np.stack([held_out, held_out]), truth)
    x = (held_out - mean) / np.sqrt(var + 1e-6) if normalize else held_out
    assert one[1, 1] == pytest.approx(((x @ weight + bias).argmax(1) == truth).mean())
    assert (five == 1).all()  # three classes


def test_a_rate_that_diverges_is_not_chosen():
    features, labels = clusters(32, classes=7)
    recipe = Recipe((1e38, 0.1), epochs=5, batch=8)
    heads = many_heads.train(recipe, 100 * features[None], labels, 7, jax.random.key(0))
    assert not np.isfinite(np.asarray(heads.weight[0, 0])).all()
    one, five = many_heads.accuracies(recipe, heads, 100 * features[None], labels)
    assert one[0, 0] == five[0, 0] == 0 and one[0, 1] > 0.5


def task_of(train, held_out):
    task = Task(encoders.raw_pixels(), recipes.pretrain().data, ("pooled",), say=lambda _: None)
    for name, (features, labels) in (("train", train), ("held_out", held_out)):
        task.__dict__[name] = FeatureSet({"pixels": features}, labels, np.arange(len(labels)))
    return task


@pytest.mark.parametrize("choose_by", ["eval", "train"])
def test_the_sweep_reports_the_rate_it_chose(choose_by):
    sweep = LinearSweep(epochs=12, batch_size=16, lr=(1e-6, 0.05), lr_batch=0, choose_by=choose_by, augment=False)
    numbers = sweep.run(task_of(clusters(120), clusters(60, seed=4)))
    assert numbers.settings["chosen_lr"] == 0.05 and numbers.metrics["top1"] > 0.6
    assert set(numbers.details["top1_by_lr"]["pixels"]) == {"1e-06", "0.05"}
    assert numbers.counts == {"train": 120 if choose_by == "eval" else 108, "eval": 60, "classes": 3}


@pytest.fixture
def digits(build):
    """100 digits, 90 to learn from, in batches of 24 over eight devices: the last ones are padded."""
    method, variables = build(channels=1)
    data = recipes.pretrain().data
    data.update(source="digits:train", eval_source="digits:test", channels=1, mean=(0.3,), std=(0.35,))
    data.update(eval_resize=16, threads=2)
    data.views.image.update(size=(16, 16), flip=0.0, interpolation="bilinear")
    names = ("cls", "pooled", "block1")
    encoder = encoders.Encoder("pretrained", variables, method)
    return Task(encoder, data, names, batch_size=24, limit=100, say=lambda _: None)


def test_crops_that_change_nothing_give_what_cached_features_give(digits):
    """All of a square image, not mirrored: every epoch's features are those of the evaluation crop."""
    settings = dict(epochs=3, batch_size=16, lr=(0.01, 0.1), lr_batch=0, choose_by="train", wanted=("cls", "pooled"))
    cached = LinearSweep(augment=False, **settings).run(digits)
    whole = LinearSweep(scale=(1.0, 1.0), **settings).run(digits)
    assert whole == cached and cached.counts == {"train": 90, "eval": 100, "classes": 10}
    assert set(whole.details["top1_by_lr"]) == {"cls", "pooled"}


def test_every_epoch_of_the_sweep_sees_other_crops(digits, monkeypatch):
    seen = []

    def look(recipe, state, features, labels, epoch, key):
        seen.append((np.asarray(features), np.asarray(labels)))
        return state

    monkeypatch.setattr(many_heads, "train_epoch", look)
    LinearSweep(epochs=2, lr=(0.1,), wanted=("pooled",)).run(digits)
    (first, labels), (second, again) = seen
    assert first.shape == second.shape == (1, 100, 16) and np.abs(first - second).mean() > 1e-3
    np.testing.assert_array_equal(labels, digits.train.truth)
    np.testing.assert_array_equal(again, digits.train.truth)


def test_the_sweep_takes_the_features_of_the_papers(build):
    method, _ = build()
    assert LinearSweep().features(method) == ("cls",)
    assert LinearSweep(wanted=("last4", "both")).features(method) == ("last4", "both")
    config = recipes.pretrain().evaluation
    assert len(LinearSweep.from_config(config).lr) == 45
    with config.unlocked():
        config.linear_sweep.features = ("clss",)
    with pytest.raises(ConfigError, match="evaluation.linear_sweep.features = 'clss' is not a feature; did you mean"):
        LinearSweep.from_config(config)


def test_the_curve_has_a_point_for_every_block(build):
    method, _ = build()
    task = task_of(clusters(60), clusters(40, seed=4))
    names = Layers().features(method)
    assert names == ("block1", "block2")
    useless = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    for split, noise in (("train", useless), ("held_out", useless[:40])):
        given = task.__dict__[split]
        both = {"block1": noise, "block2": given.features["pixels"]}
        task.__dict__[split] = dataclasses.replace(given, features=both)
    task.encoder = encoders.Encoder("pretrained", Variables(params={}), method)
    numbers = Layers(epochs=4, batch_size=16, lr=(0.1, 0.5), lr_batch=0).run(task)
    curve = numbers.details["top1_by_block"]
    assert curve[0] < 0.7 < curve[1] == numbers.metrics["top1_best_block"] and numbers.details["best_block"] == 2
    assert numbers.counts["train"] == 54 and numbers.counts["blocks"] == 2


def test_features_of_blocks_and_of_the_last_blocks(build):
    method, variables = build()
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, *method.model.image_size, 3)), jnp.float32)
    names = ("block1", "block2", "last2", "pooled", "cls", "both")
    found = encoders.vectors(method, variables, images, names)
    np.testing.assert_allclose(found["block2"], found["pooled"], rtol=1e-5, atol=1e-6)
    width = method.model.width
    assert found["last2"].shape == (3, 2 * width)
    np.testing.assert_allclose(found["last2"][:, width:], found["cls"], rtol=1e-5, atol=1e-6)
    raw = method.encode(variables.params, images, layers=True).layers[0]
    norm = variables.params["encoder"]["norm"]
    centred = np.asarray(raw) - np.asarray(raw).mean(-1, keepdims=True)
    normed = centred / np.sqrt(np.asarray(raw).var(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(found["block1"], normed[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["last2"][:, :width], normed[:, 0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="feature 'block3' was asked for, but this encoder has 2 blocks"):
        encoders.vectors(method, variables, images, ("block3",))
