"""The rules of comparison: relative to the largest magnitude; integers, masks and names equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mim_jax.interop.case import Case, Exemption, Reading, _exemptions
from mim_jax.interop.compare import Result, compare, compare_arrays, compare_entries, relative_errors


def case(outputs, exemptions=(), listed=()):
    empty = Reading({}, "nothing")
    return Case(Path("x"), "mae", "k", empty, empty, outputs, {}, 1e-5, exemptions, listed)


def test_error_is_relative_to_the_largest_magnitude():
    expected = np.array([0.0, -4.0, 1.0], np.float32)
    row = compare_arrays("pred", expected, expected + np.array([4e-6, 0, 0], np.float32), 1e-5)
    assert row.error == pytest.approx(1e-6, rel=1e-3) and row.ok
    assert not compare_arrays("pred", expected, expected + np.float32(5e-5), 1e-5).ok
    assert relative_errors(np.zeros(2), np.array([0.0, 0.5])).tolist() == [0.0, 0.5]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_a_number_fails(value):
    found = np.array([1.0, value])
    assert not compare_arrays("pred", np.ones(2), found, 1e-5).ok
    assert not compare_arrays("pred", found, np.ones(2), 1e-5).ok


def test_integers_masks_and_shapes_must_be_equal():
    assert compare_arrays("ids", np.array([1, 2]), np.array([1, 2], np.int32), 1e-5).ok
    assert not compare_arrays("ids", np.array([100000, 2]), np.array([100001, 2]), 1e-4).ok
    assert compare_arrays("mask", np.array([0.0, 1.0]), np.array([False, True]), 1e-5).ok
    assert not compare_arrays("mask", np.array([0.0, 1.0]), np.array([1e-7, 1.0]), 1e-5).ok
    assert compare_arrays("masked_mean", np.array([0.0, 1.0]), np.array([1e-7, 1.0]), 1e-5).ok
    assert compare_arrays("pred", np.zeros((2, 1)), np.zeros((1, 2)), 1e-5).note == "shape (1, 2), expected (2, 1)"


def test_every_expected_array_is_judged():
    rows = compare(
        case({"loss": np.ones(()), "aux": np.zeros(2), "odd": np.zeros(1)}, listed=("loss", "gone")),
        Result(arrays={"loss": 1.0}, skipped={"aux": "it is drawn at random"}),
    )
    assert [(row.name, row.ok) for row in rows] == [("loss", True), ("aux", True), ("odd", False), ("gone", False)]
    assert rows[1].note == "not compared: it is drawn at random"


def test_values_by_name_in_any_order_and_gradients_ten_times_wider():
    outputs = {"grad_names": np.array(["a", "b"]), "grad_norms": np.array([1.0, 2.0]), "sizes": np.array([1.0, 2.0])}
    values = {"b": 2.0, "a": 1.0 + 1e-4}
    rows = compare(case(outputs), Result(named={"grad_names": {"grad_norms": values, "sizes": values}}))
    assert [(row.name, row.ok) for row in rows] == [("grad_names", True), ("grad_norms", True), ("sizes", False)]
    assert rows[1].note == "largest at a" and rows[1].error == pytest.approx(5e-5)


def test_names_that_differ_fail_with_the_names():
    outputs = {"grad_names": np.array(["a", "b"]), "grad_norms": np.array([1.0, 2.0])}
    rows = compare(case(outputs), Result(named={"grad_names": {"grad_norms": {"a": 1.0, "c": 2.0}}}))
    assert [row.note for row in rows] == ["not ours: b; not theirs: c", "not ours: b"]
    assert not any(row.ok for row in rows)


def test_exemption_from_a_note_covers_the_named_entries_alone():
    note = "AdamW is noisy: compare change_norms of *.qkv.bias with rtol 5e-2, the rest with rtol 1e-3."
    (exemption,) = _exemptions({}, [note])
    assert exemption == Exemption("change_norms", "*.qkv.bias", 0.05, True)
    assert _exemptions({}, ["compare the change norms of *.qkv.bias with rtol 5e-2 (noise)."]) == (exemption,)
    names, expected = np.array(["x.qkv.bias", "x.qkv.weight"]), np.array([0.1, 2.0])
    found = {"x.qkv.bias": 0.104, "x.qkv.weight": 2.0}
    rows = compare_entries("change_norms", expected, names, found, 1e-4, [exemption])
    assert [(row.name, row.ok) for row in rows] == [("change_norms", True), ("change_norms of *.qkv.bias", True)]
    assert rows[1].error == pytest.approx(0.04)  # relative to the entry itself
    rows = compare_entries("change_norms", expected, names, {**found, "x.qkv.weight": 2.004}, 1e-4, [exemption])
    assert [row.ok for row in rows] == [False, True]
    rows = compare_entries("change_norms", expected, names, {**found, "x.qkv.bias": 0.106}, 1e-4, [exemption])
    assert [row.ok for row in rows] == [True, False]


def test_exception_of_the_tolerance_covers_a_whole_array():
    exemptions = _exemptions({"exceptions": {"margin": 1e-3}}, [])
    rows = compare(
        case({"margin": np.ones(2), "loss": np.ones(1)}, exemptions),
        Result(arrays={"margin": np.ones(2) + 5e-4, "loss": np.ones(1) + 5e-4}),
    )
    assert [row.ok for row in rows] == [True, False]


def test_reading_says_what_it_lacks_and_what_was_not_read():
    reading = Reading({"width": 3, "depth": 1}, "the config")
    assert reading["width"] == 3 and reading.get("heads") is None
    assert reading.unread() == ["depth"]
