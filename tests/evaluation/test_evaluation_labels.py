"""Labels that do not serve are refused in one sentence each."""

from __future__ import annotations

import numpy as np
import pytest

from mim_jax.evaluation.features import FeatureSet
from mim_jax.evaluation.labels import LabelError, check_labels


def split(labels):
    labels = None if labels is None else np.asarray(labels)
    return FeatureSet({}, labels, np.arange(100, 103))


def test_classes_are_counted_from_the_largest_label():
    assert check_labels(split([0, 3, 1]), split([3, 3, 0]), "a", "b") == 4


@pytest.mark.parametrize(
    ("train", "held_out", "sentence"),
    [
        (None, [0, 1, 1], "^a has no labels"),
        ([0, 1, 1], None, "^b has no labels"),
        ([2, 2, 2], [2, 2, 2], "all 3 training images of a have label 2"),
        ([0, 1, 1], [0, 5, 1], "^b has class 5, which no training image of a has"),
        ([0, 1, 1], [0, 5, 7], "^b has class 5 and 1 more"),
        ([0, 1, 1], [0, -1, 1], r"^b has negative labels \(first: record 101\)"),
    ],
)
def test_bad_labels(train, held_out, sentence):
    with pytest.raises(LabelError, match=sentence):
        check_labels(split(train), split(held_out), "a", "b")


def test_a_subset_may_lack_classes():
    assert check_labels(split([0, 1, 1]), split([0, 5, 1]), "a", "", complete=False) == 6
