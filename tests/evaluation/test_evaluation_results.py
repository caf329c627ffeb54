"""eval.json only grows, and is never damaged by us."""

from __future__ import annotations

import json
import multiprocessing

import pytest

from mim_jax.errors import CheckpointError
from mim_jax.evaluation import results


def add(folder, worker):
    for number in range(20):
        results.append(folder, [{"worker": worker, "number": number}])


def test_results_are_appended_in_order(tmp_path):
    assert results.read(tmp_path) == []
    results.append(tmp_path, [{"protocol": "knn"}])
    results.append(tmp_path, [{"protocol": "linear"}, {"protocol": "finetune"}])
    assert [entry["protocol"] for entry in results.read(tmp_path)] == ["knn", "linear", "finetune"]
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]


@pytest.mark.parametrize("text", ['[{"protocol": "knn"}, {"prot', '{"protocol": "knn"}', "[1, 2]", ""])
def test_a_damaged_file_is_left_as_it_is(tmp_path, text):
    path = tmp_path / "eval.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match="left as it is"):
        results.append(tmp_path, [{"protocol": "linear"}])
    assert path.read_text() == text


def test_a_result_that_is_not_json_loses_nothing(tmp_path):
    results.append(tmp_path, [{"protocol": "knn"}])
    before = (tmp_path / "eval.json").read_text()
    with pytest.raises(ValueError, match="JSON"):
        results.append(tmp_path, [{"top1": float("nan")}])
    assert (tmp_path / "eval.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]


def test_two_evaluations_at_once_keep_each_others_results(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add, args=(tmp_path, worker)) for worker in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = json.loads((tmp_path / "eval.json").read_text())
    assert len(found) == 40
    for worker in range(2):
        assert [entry["number"] for entry in found if entry["worker"] == worker] == list(range(20))
