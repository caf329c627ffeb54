"""The page that compares: curves overlaid, results side by side, settings that differ."""

from __future__ import annotations

import json

import pytest
from test_report_page import HOSTILE, Page, result

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.errors import CheckpointError
from mim_jax.report import metrics, panels
from mim_jax.report.compare import names, write_comparison


def make(folder, *, lr=1e-3, batch=8, steps=4, **method):
    folder.mkdir(parents=True)
    config = recipes.pretrain()
    config.method.update({"name": "mae", **method})
    config.optimizer.lr, config.training.batch_size = lr, batch
    configs.save(config, folder / "config.json")
    lines = [{"step": s, "loss": 1 / s, "epoch": s * batch / 64} for s in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def runs(tmp_path):
    first = make(tmp_path / "one" / "run", mask_ratio=0.5, only_here=HOSTILE)
    second = make(tmp_path / "two" / f"run {HOSTILE.replace('/', '')}", lr=2e-3, mask_ratio=0.75)
    (first / "eval.json").write_text(json.dumps([result(), result(metrics={"top1_k10": 0.1}, time="2024-01-01")]))
    later = {"step": 9, "hash": "x"}
    (second / "eval.json").write_text(
        json.dumps(
            [
                result(metrics={"top1_k10": 0.95}, checkpoint=later),
                result(metrics={"top1_k10": 0.2}, time="2026-01-01"),
                result(protocol="linear", metrics={"top1": 0.5}),
            ]
        )
    )
    return [first, second]


def test_results_and_settings_side_by_side(runs, tmp_path):
    page = Page(write_comparison(runs, tmp_path / "both.html").read_text())
    assert "optimizer.lr 0.001 0.002" in page.text and "method.mask_ratio 0.5 0.75" in page.text
    shared, _, own = page.text.partition("keys that only some of them have (1)")
    assert "method.only_here" in own and "method.only_here" not in shared and HOSTILE in own
    # The latest checkpoint that was judged, of it the newest result; said where it is not the run's last step.
    assert "knn (pooled) top-1, k = 10 91.23 (step 7) 95.00 (step 9)" in page.text
    assert "linear (pooled) top-1 – 50.00 (step 7)" in page.text
    assert "optimizer.weight_decay" not in page.text


def test_every_measure_is_one_plot_with_a_line_for_each_run(runs):
    series = {name: metrics.read(run) for name, run in zip("ab", runs, strict=True)}
    series["b"]["knn"] = [(4, 0.5)]
    found = {panel.title: panel for panel in panels.of_runs(series)}
    assert list(found) == ["training loss", "kNN while training (%)"]
    assert [line.label for line in found["training loss"].lines] == ["a", "b"]
    assert [(line.style, line.points) for line in found["kNN while training (%)"].lines] == [(1, [(4, 50.0)])]
    assert found["training loss"].xlabel == "step"


def test_other_batch_sizes_are_laid_over_each_other_by_epoch(tmp_path):
    series = {str(b): metrics.read(make(tmp_path / str(b), batch=b)) for b in (8, 16)}
    (loss,) = panels.of_runs(series)
    assert loss.xlabel == "epoch" and [line.points[-1][0] for line in loss.lines] == [0.5, 1.0]


def test_names_are_the_shortest_that_differ(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "other"]
    assert list(names(folders)) == ["a/run", "b/run", "b/other"]
    assert list(names(folders[1:])) == ["run", "other"]


def test_a_run_that_has_just_begun_and_equal_settings(tmp_path):
    folders = [make(tmp_path / name, steps=0) for name in "ab"]
    page = Page(write_comparison(folders, tmp_path / "both.html").read_text())
    assert "The configs are equal." in page.text and "Curves" not in page.text and "Results" not in page.text


def test_what_cannot_be_compared(runs, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="named twice"):
        write_comparison([runs[0], runs[0] / "."], tmp_path / "both.html")
    with pytest.raises(CheckpointError, match="is no run"):
        write_comparison([runs[0], tmp_path / "nowhere"], tmp_path / "both.html")
    with pytest.raises(CheckpointError, match="33 runs do not fit one plot: compare 32 at most"):
        write_comparison([tmp_path / str(i) for i in range(33)], tmp_path / "both.html")
    assert not (tmp_path / "both.html").exists()
