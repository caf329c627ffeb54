"""Curves come from metrics.jsonl as it is, damaged lines and all."""

from __future__ import annotations

import json
import xml.etree.ElementTree

import numpy as np
import pytest

from mim_jax.report import metrics, panels, plots

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
    assert panels.of_run({}, []) == {} and metrics.newest_step({}) is None


def test_panels_hold_the_points(run):
    found = dict((panel.title, panel) for panel, _ in panels.of_run(metrics.read(run), [])["learning"])
    assert list(found) == ["loss", "what the encoder is worth (%)"]
    axes = plots.draw(found["loss"]).axes[0]
    training, held_out = axes.get_lines()
    np.testing.assert_allclose(training.get_xydata(), [[1, 1.0], [2, 0.8]])
    np.testing.assert_allclose(held_out.get_xydata(), [[3, 0.7]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "held out"]
    axes = plots.draw(found["what the encoder is worth (%)"]).axes[0]
    np.testing.assert_allclose(axes.get_lines()[0].get_xydata(), [[3, 50.0]])


def test_a_single_point_is_visible(run):
    for panel, _ in panels.of_run(metrics.read(run), [])["learning"]:
        assert plots.draw(panel).axes[0].get_lines()[-1].get_marker() == "o"


def test_what_a_method_logs_has_panels_of_its_own():
    series = {
        "loss": [(1, 3.0), (2, 2.0)], "all": [(1, 3.0), (2, 2.0)], "cls": [(1, 2.0), (2, 1.0)], "val_cls": [(2, 1.5)],
        "patch_error": [(1, 1.0), (2, 1.0)], "grad_norm": [(1, 100.0), (2, 0.5)], "weight_decay": [(1, 0.0)],
        "epoch": [(1, 0.5), (2, 1.0)], "skipped": [(1, 0.0)], "images_per_sec": [(1, 10.0)], "data_wait": [(2, 0.25)],
    }  # fmt: skip
    groups = panels.of_run(series, [])
    titles = {name: [panel.title for panel, _ in found] for name, found in groups.items()}
    assert titles == {
        "learning": ["loss", "cls", "patch error"],
        "optimizer": ["gradient norm"],
        "machine": ["throughput (images/s)", "waiting for data (% of the time)"],
    }
    (loss, _), (cls, words), _ = groups["learning"]
    assert loss.lines[0].label == "training (= all)"
    assert words == "newest: training 1, held out 1.5" and len(cls.lines) == 2
    assert plots.draw(groups["optimizer"][0][0]).axes[0].get_yscale() == "log"
    assert groups["machine"][1][0].lines[0].points == [(2, 25.0)]


def test_results_are_drawn_over_the_steps():
    def entry(step, value, protocol="linear", time="1", **more):
        return {"protocol": protocol, "metrics": {"top1": value}, "checkpoint": {"step": step}, "time": time} | more

    entries = [entry(4, 0.5), entry(2, 0.25), entry(4, 0.75, time="2"), entry("x", 0.1), {"protocol": "old"}]
    entries.append(entry(4, 17.0, protocol="analysis", units={"top1": "px"}))
    assert panels.over_time(entries) == {"linear, top-1": [(2, 0.25), (4, 0.75)]}
    (panel, words) = panels.of_run({}, entries)["learning"][0]
    assert panel.lines[0].points == [(2, 25.0), (4, 75.0)] and words == "newest: linear, top-1 75"


def test_steps_are_placed_in_their_epochs():
    series = {"epoch": [(10, 1.0), (20, 3.0)]}
    assert [metrics.epoch_of(series, step) for step in (5, 10, 15, 20, 30)] == [0.5, 1.0, 2.0, 3.0, 5.0]
    assert metrics.epoch_of({}, 7) == 7 and metrics.epoch_of({"epoch": [(4, 1.0)]}, 2) == 0.5


def test_long_curves_keep_their_peaks():
    values = np.random.default_rng(0).normal(size=50_000)
    values[31_234], values[777] = 99.0, -99.0
    thin = metrics.thin(list(enumerate(values.tolist())))
    assert len(thin) <= metrics.MOST and thin == sorted(thin)
    assert (31_234, 99.0) in thin and (777, -99.0) in thin and thin[0][0] == 0 and thin[-1][0] == 49_999
    assert metrics.thin([(1, 2.0)]) == [(1, 2.0)]


HOSTILE = ("$\\frac{", "_hidden", "</svg><script>alert(1)</script>", "\u6f22\u5b57", "a\nb\x00", "&quot;")


def test_names_are_drawn_as_they_are():
    lines = tuple(plots.Line(name, [(1, 1.0), (2, 2.0)], number) for number, name in enumerate(HOSTILE))
    text = plots.svg(plots.Panel(HOSTILE[0], lines))
    words = "".join(xml.etree.ElementTree.fromstring(text).itertext())
    assert all(name in words for name in (*HOSTILE[:4], HOSTILE[5]))
    assert "script" not in {element.tag for element in xml.etree.ElementTree.fromstring(text).iter()}


def test_curves_are_the_same_each_time_and_follow_the_screen(run):
    (panel, _), *_ = panels.of_run(metrics.read(run), [], [2])["learning"]
    text = plots.svg(panel)
    assert text == plots.svg(panel) and text.startswith("<?xml")
    assert "prefers-color-scheme:dark" in text and "var(--ink)" in text and "var(--faint)" in text
    assert plots.INK not in text and plots.FAINT not in text


def test_colours_stand_out_on_light_and_on_dark():
    """Graphics want a contrast of 3 to 1 (WCAG 2.2, 1.4.11)."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for colour in plots.COLOURS:
        assert (
            1.05 / (luminance(colour) + 0.05) >= 3 and (luminance(colour) + 0.05) / (luminance("#1d2127") + 0.05) >= 3
        )
