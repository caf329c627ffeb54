"""Draws are a function of what they are for; shuffles and picks are fair."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.random import Philox
from scipy.stats import chisquare, kstest

from mim_jax.data.randomness import generator, one_of_each, permutation


def test_streams_are_philox_with_the_stated_key_and_counter():
    expected = Philox(
        key=np.array([7, zlib.crc32(b"view image")], np.uint64), counter=np.array([0, 5, 3, 0], np.uint64)
    )
    drawn = generator(7, epoch=3, index=5, purpose="view image").bit_generator.random_raw(8)
    np.testing.assert_array_equal(drawn, expected.random_raw(8))


def test_streams_differ_by_seed_epoch_record_purpose_and_part():
    base = {"seed": 1, "epoch": 2, "index": 3, "purpose": "a"}
    streams = [
        generator(**(base | change)).random(1000)
        for change in ({}, {"seed": 2}, {"epoch": 3}, {"index": 4}, {"purpose": "b"}, {"part": 1})
    ]
    assert len({tuple(s) for s in streams}) == 6
    assert len(np.unique(np.concatenate(streams))) == 6000  # no stream is a shifted copy of another


def test_first_draws_of_neighbouring_records_are_uniform():
    firsts = [generator(0, epoch=0, index=i, purpose="x").random() for i in range(2000)]
    assert kstest(firsts, "uniform").pvalue > 1e-3


def test_permutation_is_one_and_changes_with_epoch_and_seed():
    orders = [permutation(500, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(500))
    assert len({tuple(o) for o in orders}) == 3
    np.testing.assert_array_equal(orders[1], permutation(500, seed=0, epoch=1))


def test_permutation_puts_every_record_everywhere():
    first_places = [int(permutation(8, seed=0, epoch=e)[0]) for e in range(4000)]
    assert chisquare(np.bincount(first_places, minlength=8)).pvalue > 1e-3


def test_one_of_each_block_and_not_in_step_with_alternating_classes():
    picks = one_of_each(10_005, 10, "held out")
    np.testing.assert_array_equal(np.bincount(picks // 10, minlength=1000)[:1000], 1)
    assert picks.max() < 10_005
    counts = np.bincount(picks[:1000] % 10, minlength=10)  # classes that repeat 0..9
    assert chisquare(counts).pvalue > 1e-3
    np.testing.assert_array_equal(picks, one_of_each(10_005, 10, "held out"))
