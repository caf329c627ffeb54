"""Curves come from metrics.jsonl as it is, damaged lines and all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mim_jax.errors import CheckpointError
from mim_jax.report import metrics, plots

LINES = [
    {"step": 2, "loss": 0.9, "lr": 1e-4, "epoch": 1.0},
    {"step": 1, "loss": 1.0, "lr": 0.0},
    {"step": 2, "loss": 0.8},
    {"step": 3, "loss": float("nan"), "lr": 2e-4},
    {"step": 3, "knn": 0.5, "val_loss": 0.7, "note": "text", "held": True},
]


@pytest.fixture
def run(tmp_path):
    text = "\n".join([*map(json.dumps, LINES), '{"step": 4, "lo'])
    (tmp_path / "metrics.jsonl").write_text(text)
    return tmp_path


def test_series_are_ordered_and_finite(run):
    series = metrics.read(run)
    assert series["loss"] == [(1, 1.0), (2, 0.8)]
    assert series["lr"] == [(1, 0.0), (2, 1e-4), (3, 2e-4)]
    assert series["knn"] == [(3, 0.5)]
    assert "note" not in series and "held" not in series
    assert metrics.last(series, "val_loss") == 0.7 and metrics.last(series, "absent") is None


def test_nothing_logged_yet(tmp_path):
    assert metrics.read(tmp_path) == {}
    with pytest.raises(CheckpointError, match="holds no loss yet"):
        plots.write_curves(tmp_path)


def test_panels_hold_the_points(run):
    series = metrics.read(run)
    figure = plots.curves(series, plots.present(series))
    axes = {panel.get_title(): panel for panel in figure.axes}
    assert list(axes) == ["loss", "kNN top-1 (%)", "learning rate"]
    training, held_out = axes["loss"].get_lines()
    np.testing.assert_allclose(training.get_xydata(), [[1, 1.0], [2, 0.8]])
    np.testing.assert_allclose(held_out.get_xydata(), [[3, 0.7]])
    np.testing.assert_allclose(axes["kNN top-1 (%)"].get_lines()[0].get_xydata(), [[3, 50.0]])


def test_a_single_point_is_visible(run):
    series = metrics.read(run)
    axes = plots.curves(series, plots.present(series)).axes
    lines = {panel.get_title(): panel.get_lines() for panel in axes}
    assert lines["kNN top-1 (%)"][0].get_marker() == "o" and lines["loss"][1].get_marker() == "o"


def test_files_are_written_and_the_same_each_time(run):
    first, picture = plots.write_curves(run)
    text = first.read_text()
    assert text.startswith("<?xml") and Image.open(picture).width > 400
    plots.write_curves(run)
    assert first.read_text() == text
