"""A row from its first command to its line in the results, interrupted on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest_rows import LINEAR, TINY

from mim_jax.cli import main
from mim_jax.errors import CheckpointError, DataError, MimError
from mim_jax.reproduce import perform, process
from mim_jax.reproduce.own_row import value_of
from mim_jax.reproduce.recipe import recipe
from mim_jax.results import files
from mim_jax.results.metrics import measure


@pytest.fixture
def made(rows, tiny):
    return recipe(files.find(LINEAR, rows), tiny())


def stop_when(path):
    """Sends SIGTERM to this process as soon as the file holds a line: then training listens to it."""

    def wait():
        while not (path.exists() and path.read_text().count("\n")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def test_a_row_is_run_interrupted_continued_and_added_once(made, tmp_path):
    out, said = tmp_path / "rows.json", []
    stop_when(made.steps[0].run / "metrics.jsonl")
    with pytest.raises(MimError, match="step 1 of 2, seed 0, pretrain has not come to its end; the same command"):
        perform.perform(made, out, said.append, run=main)
    assert not out.exists()
    lines = (made.steps[0].run / "metrics.jsonl").read_text().splitlines()
    assert 0 < len(lines) < 12

    mine = perform.perform(made, out, said.append, run=main)
    assert (made.steps[0].run / "metrics.jsonl").read_text().splitlines()[: len(lines)] == lines
    (added,) = files.read(out)[1]
    assert added == mine and mine.row == LINEAR and mine.scale == "cifar10" and mine.hours > 0
    entry = json.loads((made.steps[0].run / "eval.json").read_text())[-1]
    assert mine.value == round(100 * entry["metrics"]["top1"], 3)
    assert mine.checkpoint_hash == entry["checkpoint"]["hash"]
    assert set(mine.baselines) == {"untrained", "pixels"} and mine.counts["classes"] == 10
    sentence, fine = perform.verdict(made, mine)
    assert fine and "at another scale and not to be compared: 68" in sentence

    said.clear()
    assert perform.perform(made, out, said.append, run=lambda argv: pytest.fail(f"{argv} is done already")) == mine
    assert [line.rpartition(": ")[2] for line in said[:2]] == ["done already"] * 2 and "stood already in" in said[2]
    assert len(files.read(out)[1]) == 1


def test_a_step_that_fails_ends_it_and_says_which(made, tmp_path):
    with pytest.raises(MimError, match="step 1 of 2, seed 0, pretrain ended with exit code 2"):
        perform.perform(made, tmp_path / "rows.json", lambda line: None, run=lambda argv: 2)
    assert list(tmp_path.glob("*.json")) == []
    assert json.loads((made.workdir / "reproduce.json").read_text())["seconds"]


def test_the_comparison_is_by_the_tolerance_of_the_row(made):
    from mim_jax.results.row import Measured

    large = dataclasses.replace(made, options=dataclasses.replace(made.options, scale=""))
    mine = Measured(
        id="mae/vit_b16/imagenet1k/1600ep/linear/00000000", method="mae", model="ViT-B/16", data="ImageNet-1K",
        epochs=1600, metric="linear top-1", value=67.6, config="c", seeds=(0,), hardware="h", command="c", commit="",
        checkpoint_hash="0" * 64, row=LINEAR,
    )  # fmt: skip
    assert perform.verdict(large, mine) == ("linear top-1: 67.60; published 68, difference -0.40, within 0.5", True)
    sentence, fine = perform.verdict(large, dataclasses.replace(mine, value=67.0))
    assert not fine and "difference -1.00, outside 0.5" in sentence


def test_a_place_that_takes_no_row_is_refused_before_anything_runs(made, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="there is no folder"):
        perform.target(made, str(tmp_path / "none" / "rows.json"))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DataError, match="is not an object of the two lists"):
        perform.target(made, str(tmp_path / "other.json"))
    monkeypatch.setattr(perform, "in_checkout", lambda: False)
    with pytest.raises(DataError, match="give --out FILE"):
        perform.target(made, "")


def test_in_a_checkout_the_row_goes_to_the_systems_file(made, root):
    assert perform.target(made, "") == root / "results" / "mae.json"


def test_the_best_neighbourhood_counts():
    assert value_of({"top1_k10": 0.5, "top1_k20": 0.6}, measure("kNN top-1")) == 60.0
    assert value_of({"top1": 0.5, "top5": 0.9}, measure("linear top-1")) == 50.0
    with pytest.raises(CheckpointError, match="has no 'miou'"):
        value_of({"top1": 0.5}, measure("ADE20K mIoU"))


def test_what_stops_us_stops_the_command():
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    code += "; print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    with child, process._forwarded(child) as seen:
        child.stdout.read(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert child.wait(20) == 7
    assert seen == [signal.SIGTERM]


def test_a_command_runs_in_a_process_of_its_own(capfd):
    assert process.run(["--version"]) == 0
    assert capfd.readouterr().out.startswith("mim-jax ")


@pytest.mark.slow
def test_the_command_is_stopped_by_a_signal_and_goes_on(tmp_path):
    words = [sys.executable, "-m", "mim_jax", "reproduce", LINEAR, "--scale", "cifar10", "--source", "digits:train"]
    words += ["--eval-source", "digits:test", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "rows.json")]
    words += ["--epochs", "40", *(f"--config.{change}" for change in TINY)]
    log = tmp_path / "run" / "seed-0" / "metrics.jsonl"
    first = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    while not log.exists() and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 1 and "stopped by SIGTERM; the same command goes on there" in said
    assert 0 < len(log.read_text().splitlines()) < 80
    second = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert len(log.read_text().splitlines()) == 80
    assert len(files.read(tmp_path / "rows.json")[1]) == 1
