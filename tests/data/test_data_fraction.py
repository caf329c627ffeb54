"""A share of the training records: the same for every seed, nested, and for pretraining alone."""

from __future__ import annotations

import numpy as np
import pytest

from mim_jax.data import eval_batches, train_batches
from mim_jax.data.settings import Settings
from mim_jax.data.split import open_split
from mim_jax.errors import ConfigError


@pytest.fixture
def records(tmp_path, data_config):
    np.save(tmp_path / "x.npy", np.zeros((200, 8, 8, 3), np.uint8))

    def make(fraction, split="pretrain", **changes):
        data = data_config(f"npy:{tmp_path}/x.npy", fraction=fraction, **changes)
        return open_split(Settings.from_config(data), split)[1]

    return make


def test_shares_are_nested(records):
    tenth, fifth, half, whole = (set(records(f).tolist()) for f in (0.1, 0.2, 0.5, 1.0))
    assert [len(s) for s in (tenth, fifth, half, whole)] == [18, 36, 90, 180]
    assert tenth < fifth < half < whole


def test_evaluation_sees_everything(records):
    np.testing.assert_array_equal(records(0.1, "train"), records(1.0))
    np.testing.assert_array_equal(records(0.1, "eval"), records(1.0, "eval"))


def test_training_runs_over_the_share_whatever_the_seed(class_folder, data_config):
    config = data_config(f"folder:{class_folder}", eval_source=f"folder:{class_folder}", fraction=0.25)
    seen = []
    for seed in (0, 1):
        batches = train_batches(config, seed=seed, batch_size=5)
        assert (batches.records, batches.steps_per_epoch) == (10, 2)
        seen.append(set(np.concatenate([next(batches)["index"] for _ in range(4)]).tolist()))
        batches.close()
    assert seen[0] == seen[1] and len(seen[0]) == 10
    assert eval_batches(config, split="train", batch_size=8).records == 40


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_impossible_shares_are_refused(records, fraction):
    with pytest.raises(ConfigError, match=f"data.fraction = {fraction}"):
        records(fraction)
