"""kNN against scikit-learn, and its promises about chunks and ties."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mim_jax.evaluation import neighbours as knn


@pytest.fixture(scope="module")
def points():
    random = np.random.default_rng(0)
    centres = random.normal(size=(7, 12))
    labels, answers = random.integers(7, size=301), random.integers(7, size=77)
    bank = (centres[labels] + 1.5 * random.normal(size=(301, 12))).astype(np.float32)
    queries = (centres[answers] + 1.5 * random.normal(size=(77, 12))).astype(np.float32)
    return bank, labels, queries, answers


def collect(bank, queries, k, **chunks):
    parts = list(knn.neighbours(bank, queries, k, **chunks))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def test_neighbours_equal_a_full_sort(points):
    bank, _, queries, _ = points
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, bank)]
    full = unit[0] @ unit[1].T
    expected = np.argsort(-full, axis=1, kind="stable")[:, :20]
    similarity, index = collect(bank, queries, 20)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(similarity, np.take_along_axis(full, expected, axis=1), atol=1e-6)


@pytest.mark.parametrize(("query_chunk", "bank_chunk"), [(8, 10), (16, 301), (77, 300), (1000, 7)])
def test_chunks_do_not_matter(points, query_chunk, bank_chunk):
    bank, _, queries, _ = points
    whole = collect(bank, queries, 9)
    parts = collect(bank, queries, 9, query_chunk=query_chunk, bank_chunk=bank_chunk)
    np.testing.assert_array_equal(parts[1], whole[1])
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-6)


def test_of_equals_the_first_in_the_bank_comes_first():
    bank = np.tile(np.eye(2, dtype=np.float32), (6, 1))  # rows 0, 2, 4, ... are the same vector
    _, index = collect(bank, np.asarray([[3.0, 0.0]], np.float32), 5, bank_chunk=4)
    np.testing.assert_array_equal(index, [[0, 2, 4, 6, 8]])


def test_of_classes_with_equal_votes_the_smaller_number_wins():
    scores = knn.votes(jnp.ones((1, 4)), jnp.asarray([[3, 1, 1, 3]]), 5, 0.07)
    assert int(scores.argmax()) == 1


@pytest.mark.parametrize("temperature", [0.0, 0.07, 1.0])
def test_predictions_equal_scikit_learn(points, temperature):
    bank, labels, queries, _ = points
    weights = (lambda distance: np.exp((1 - distance) / temperature)) if temperature else "uniform"
    found = knn.classify(bank, labels, queries, k=(1, 5, 20), temperature=temperature, classes=7)
    for k, ranked in found.items():
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights).fit(bank, labels)
        np.testing.assert_array_equal(ranked[:, 0], model.predict(queries))
        if temperature:  # without ties the whole order of the first five classes is decided
            probability = model.predict_proba(queries)
            voted = np.sort(probability, axis=1)[:, -5:].min(axis=1) > 0
            expected = np.argsort(-probability, axis=1, kind="stable")[:, :5]
            np.testing.assert_array_equal(ranked[voted], expected[voted])


def test_low_temperature_does_not_overflow(points):
    bank, labels, queries, _ = points
    found = knn.classify(bank, labels, queries, k=(10,), temperature=1e-3, classes=7)
    np.testing.assert_array_equal(found[10][:, 0], labels[collect(bank, queries, 1)[1][:, 0]])


def test_a_vector_of_zeros_is_allowed(points):
    bank, labels, _, _ = points
    found = knn.classify(bank, labels, np.zeros((2, 12), np.float32), k=(3,), temperature=0.07, classes=7)
    assert np.isfinite(found[3]).all()


def test_more_neighbours_than_the_bank_holds(points):
    with pytest.raises(ValueError, match="bank of 301"):
        next(knn.neighbours(points[0], points[2], 302))
