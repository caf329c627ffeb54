"""Reference files beside the cases: schedules per step, and statistics of masks, which must also refuse slips."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from mim_jax.errors import VerifyError
from mim_jax.interop.references import mask_statistics, multi_block, schedule
from mim_jax.interop.verify import verify


def content(shared, name: str) -> dict:
    return json.loads((shared / "goldens" / name).read_text())


def failed(rows) -> list[str]:
    assert rows
    return [row.name for row in rows if not row.ok]


# ---- Schedules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["beit/lr_schedule.json", "ibot/schedules.json", "ijepa/schedules.json"])
def test_schedules_of_the_originals(shared, name):
    report = verify(shared / "goldens" / name)
    assert report.ok, report.rows
    assert all(row.error is not None and row.error < 1e-6 for row in report.rows)


def test_a_slip_of_a_step_in_a_schedule_is_seen(shared):
    file = content(shared, "ibot/schedules.json")
    for run in file["runs"]:
        run["value per step"] = run["value per step"][1:] + run["value per step"][-1:]
    assert len(failed(schedule.per_step_rows(file))) == 5
    file = content(shared, "ijepa/schedules.json")
    file["lr"]["values"] = [0.0002, *file["lr"]["values"][:-1]]
    assert len(failed(schedule.step_by_step_rows(file))) == 2


def test_a_warm_up_in_steps_and_one_that_rises(shared):
    args = {"base_value": 0.5, "final_value": 1.0, "epochs": 2, "niter_per_ep": 4, "warmup_steps": 3}
    values = [*np.linspace(0, 0.5, 3), *(1 - 0.25 * (1 + np.cos(np.pi * np.arange(5) / 5)))]
    assert not failed(schedule.per_step_rows({"runs": [{"args": args, "value per step": values}]}))
    with pytest.raises(VerifyError, match="the argument 'cycles'"):
        schedule.per_step_rows({"runs": [{"args": {**args, "cycles": 2}, "value per step": values}]})


@pytest.mark.parametrize("name", ["beit", "simmim"])
def test_parameter_groups_of_the_originals(shared, name):
    report = verify(shared / "goldens" / name / "param_groups.json")
    assert report.ok and report.worst < 1e-12


# ---- Mask statistics -------------------------------------------------------------------------------------------


def test_block_masks_of_beit(shared):
    rows = mask_statistics.rows(content(shared, "beit/mask_statistics.json"), mask_statistics.blocks())
    assert not failed(rows) and len(rows) == 5


def test_a_smaller_block_is_seen(shared):
    file = content(shared, "beit/mask_statistics.json")
    file["runs"][0]["config"]["min_num_patches"] = 14
    assert "patches of the first rectangle" in failed(mask_statistics.rows(file, mask_statistics.blocks()))


SIDE, COUNT = 6, 4000
UNEVEN = np.linspace(0.3, 0.7, SIDE * SIDE)


def uneven(key, count, probability=UNEVEN):
    return np.asarray(jax.random.uniform(key, (count, SIDE * SIDE)) < probability).reshape(count, SIDE, SIDE)


def statistics(hidden, **config) -> dict:
    """A file as it is written for the original's generator."""
    counts = dict(zip(*(a.tolist() for a in np.unique(hidden.sum((1, 2)), return_counts=True)), strict=True))
    run = {"config": config, "masks": len(hidden), "per_position_frequency": hidden.mean(0).round(4).tolist()}
    return {"runs": [run | {"masked count (count: masks)": {str(k): v for k, v in counts.items()}}]}


def test_a_sampler_agrees_with_itself_and_a_small_bias_does_not():
    file = statistics(uneven(jax.random.key(5), COUNT))
    assert not failed(mask_statistics.rows(file, lambda key, count, _: uneven(key, count)))
    # Too little to show at any single position.
    biased = mask_statistics.rows(file, lambda key, count, _: uneven(key, count, UNEVEN + 0.02))
    assert "frequency of each of the positions" not in failed(biased)
    assert {"hidden patches per mask", "frequencies of all positions together"} == set(failed(biased))
    turned = mask_statistics.rows(file, lambda key, count, _: uneven(key, count)[:, ::-1])
    assert set(failed(turned)) == {"frequency of each of the positions", "frequencies of all positions together"}


def test_probabilities_are_probabilities():
    """Under the hypothesis the tests reject as often as they say: 5 % and 50 %, within 4 standard errors."""
    file, many = statistics(uneven(jax.random.key(5), COUNT)), []
    for i in range(40):
        theirs = statistics(uneven(jax.random.key(100 + i), 500))["runs"][0]
        drawn = mask_statistics.Drawn(uneven(jax.random.key(1000 + i), 500))
        many.append([f.probability for f in mask_statistics.run_findings({**theirs, "config": {}}, drawn)])
    together = np.array(many)[:, [0, 2]]
    assert file and (np.mean(together < 0.05, axis=0) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 40)).all()
    assert (np.abs(np.mean(together < 0.5, axis=0) - 0.5) < 4 * np.sqrt(0.25 / 40)).all()


def test_an_exact_count_must_be_exact():
    hidden = np.zeros((50, 2, 2), bool)
    hidden[:, 0] = True
    file = statistics(hidden)
    off = hidden.copy()
    off[0, 1, 0] = True
    assert not failed(mask_statistics.rows(file, lambda *_: hidden))
    assert "hidden patches per mask" in failed(mask_statistics.rows(file, lambda *_: off))


def test_cells_must_be_constant():
    rng = np.random.default_rng(0)
    coarse = rng.random((300, 2, 3)) < 0.5
    hidden = coarse.repeat(2, 1).repeat(2, 2)
    file = statistics(hidden, mask_patch_size=8, model_patch_size=4)
    file["runs"][0] |= {"cells are constant": True, "per_cell_frequency": coarse.mean(0).tolist()}
    assert not failed(mask_statistics.rows(file, lambda *_: hidden))
    torn = hidden.copy()
    torn[0, 0, 0] ^= True
    assert "patches of a cell are alike" in failed(mask_statistics.rows(file, lambda *_: torn))


def test_another_grid_is_refused():
    file = statistics(uneven(jax.random.key(5), 50))
    with pytest.raises(VerifyError, match=r"a grid of \(6, 5\)"):
        mask_statistics.rows(file, lambda key, count, _: uneven(key, count)[:, :, :5])


def test_rare_bins_are_joined():
    table = np.array([[1.0, 2, 3, 50, 60, 1], [0, 3, 4, 55, 50, 5]])
    joined = mask_statistics.pooled(table)
    np.testing.assert_array_equal(joined.sum(1), table.sum(1))
    np.testing.assert_array_equal(joined[0], [6, 50, 61])


def test_multi_block_masks_of_ijepa(shared, monkeypatch):
    monkeypatch.setattr(multi_block, "MORE", 1)
    rows = multi_block.rows(content(shared, "ijepa/mask_statistics.json"))
    assert not failed(rows) and len(rows) == 11


def test_other_block_sizes_and_lengths_are_seen(shared):
    run = content(shared, "ijepa/mask_statistics.json")["runs"][0]
    wider = dataclasses.replace(multi_block.sampler(run), target_scale=(0.15, 0.21))
    assert multi_block.sizes(run, wider).probability == 0
    lengths = np.random.default_rng(0).normal(87, 11.7, 1500).round().astype(int)
    same = multi_block.length_findings("context", run["context length per batch"], lengths, 1500)
    assert min(finding.probability for finding in same) > 1e-3
    moved = multi_block.length_findings("context", run["context length per batch"], lengths + 3, 1500)
    assert moved[0].probability < 1e-5 < moved[1].probability
