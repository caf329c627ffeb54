"""Evaluation batches: every record once, in order, padded."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from mim_jax.data import eval_batches, train_batches
from mim_jax.errors import ConfigError


@pytest.fixture
def config(class_folder, data_config):
    """40 photos, at their own size at evaluation."""
    return data_config(
        f"folder:{class_folder}", eval_source=f"folder:{class_folder}", eval_resize=20, view={"size": (20, 24)}
    )


def test_one_ordered_pass_with_padding(config, photo):
    passes = eval_batches(config, batch_size=16)
    assert (len(passes), passes.records) == (3, 40)
    for _ in range(2):
        found = list(passes)
        assert [b["image"].shape for b in found] == [(16, 20, 24, 3)] * 3
        whole = {key: np.concatenate([b[key] for b in found]) for key in found[0]}
        np.testing.assert_array_equal(whole["valid"], np.arange(48) < 40)
        np.testing.assert_array_equal(whole["index"], [*range(40), *[-1] * 8])
        np.testing.assert_array_equal(whole["label"], [0] * 20 + [1] * 20 + [-1] * 8)
        np.testing.assert_array_equal(whole["image"][:40], np.stack([photo(i) for i in range(40)]))
        assert not whole["image"][40:].any()


def test_processes_get_equally_many_batches(config):
    expected = list(eval_batches(config, batch_size=16))
    parts = [list(eval_batches(config, batch_size=16, process_index=k, process_count=4)) for k in range(4)]
    for step, batch in enumerate(expected):
        for key, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([p[step][key] for p in parts]), value)


def test_held_out_tenth_and_the_rest(config):
    config.eval_source = ""
    index = {}
    for split in ("train", "eval"):
        batches = list(eval_batches(config, split=split, batch_size=8))
        index[split] = np.concatenate([b["index"][b["valid"]] for b in batches])
    assert len(index["eval"]) == 4
    np.testing.assert_array_equal(np.sort(np.concatenate([index["train"], index["eval"]])), np.arange(40))
    training = train_batches(config, seed=0, batch_size=36)
    np.testing.assert_array_equal(np.sort(next(training)["index"]), index["train"])
    training.close()


def test_a_tiny_source_still_holds_one_out(tmp_path, data_config):
    for count in range(2, 12):
        np.save(tmp_path / "x.npy", np.zeros((count, 8, 8, 3), np.uint8))
        data = data_config(f"npy:{tmp_path}/x.npy")
        sizes = [eval_batches(data, split=split, batch_size=1).records for split in ("train", "eval")]
        assert sizes[1] >= 1
        assert sum(sizes) == count


def test_limit_is_a_fixed_choice_over_all_classes(config):
    index = [np.concatenate([b["index"] for b in eval_batches(config, batch_size=5, limit=10)]) for _ in range(2)]
    np.testing.assert_array_equal(*index)
    assert len(index[0]) == 10
    assert (np.diff(index[0]) > 0).all()
    assert 2 <= (index[0] < 20).sum() <= 8


def test_training_views_may_be_asked_for(config):
    first, again, other = (next(iter(eval_batches(config, batch_size=8, view="image", seed=s))) for s in (0, 0, 1))
    plain = next(iter(eval_batches(config, batch_size=8)))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != other["image"]).any()
    assert (first["image"] != plain["image"]).any()


def test_stopping_early_leaves_nothing_running(config):
    before = set(threading.enumerate())
    batches = iter(eval_batches(config, batch_size=4))
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=30)
        assert not thread.is_alive(), thread.name


def test_unknown_names(config):
    with pytest.raises(ConfigError, match="no view 'imag'; did you mean 'image'?"):
        eval_batches(config, batch_size=4, view="imag")
