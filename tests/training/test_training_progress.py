"""The progress line, to the letter."""

from __future__ import annotations

import io

import jax
import pytest

from mim_jax.training.progress import ProgressLine, format_line, format_seconds

VALUES = {"loss": 0.43218, "images_per_sec": 512.4, "mfu": 0.1234, "data_wait": 0.021, "lr": 1e-3}


def test_the_whole_line():
    line = format_line(1300, 40000, 400, 64, VALUES)
    assert line == (
        "epoch 3.25/100  step 1300/40000  loss 0.4322  512 images/s  MFU 12.3%  data wait 2%  1 h 20 min left"
    )


def test_what_is_unknown_is_left_out():
    assert format_line(1, 15, 10, 64, {}) == "epoch 0.10/1.5  step 1/15"
    assert format_line(1, 10, 10, 64, {"loss": None, "images_per_sec": 0.0}) == "epoch 0.10/1  step 1/10  0.0 images/s"
    assert format_line(10, 10, 10, 64, {"images_per_sec": 12.34}) == "epoch 1.00/1  step 10/10  12.3 images/s  0 s left"
    assert "12,346 images/s" in format_line(1, 10, 10, 64, {"images_per_sec": 12345.6})
    assert "loss nan" in format_line(1, 10, 10, 64, {"loss": float("nan")})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (18240, "5 h 04 min"),
        (86400 * 2 + 3 * 3600 + 59, "2 d 03 h"),
    ],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


def test_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    line = ProgressLine(100, 10, 8, stream=out)
    line.update(10, {"loss": 1.0})
    line.update(20, {"loss": 0.5})
    line.close()
    line.close()
    assert out.getvalue().splitlines() == [
        "epoch 1.00/10  step 10/100  loss 1.0000",
        "epoch 2.00/10  step 20/100  loss 0.5000",
    ]


def test_one_line_redrawn_in_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = io.StringIO()
    line = ProgressLine(100, 10, 8, stream=out, live=True)
    for step in (10, 20, 30):
        line.update(step, {"loss": step})
    line.close()
    text = out.getvalue()
    assert text.count("\n") == 1 and text.rstrip("\x1b[?25h\n").endswith("step 30/100  loss 30.0000")
    assert "\x1b[2K" in text  # the line is erased before it is drawn again


def test_rates_without_the_pauses():
    now = [0.0]
    line = ProgressLine(100, 10, 8, step=20, stream=io.StringIO(), now=lambda: now[0])
    now[0] = 4.0
    with line.paused():
        now[0] = 104.0
    now[0] = 105.0  # five seconds of training
    assert line.rates(30, method_flops=50.0, peak=1600.0) == {"images_per_sec": 16.0, "mfu": 0.5}
    now[0] = 107.0
    assert line.rates(31, method_flops=50.0, peak=1600.0)["images_per_sec"] == 4.0
    now[0] = 108.0
    assert line.rates(29, method_flops=50.0, peak=1600.0)["images_per_sec"] == 0.0  # after a failed step


def test_other_processes_are_silent(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    out = io.StringIO()
    line = ProgressLine(100, 10, 8, stream=out, live=True)
    line.update(10, {"loss": 1.0})
    line.close()
    assert out.getvalue() == ""
