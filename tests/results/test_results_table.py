"""`mim-jax results`: what stands in a cell, what stays empty, and which rows are chosen."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest
from test_results_rows import MEASURED, PUBLISHED

from mim_jax.cli import main
from mim_jax.errors import DataError
from mim_jax.results import compare, table
from mim_jax.results.metrics import measure
from mim_jax.results.row import Measured, Published

THEIRS = Published.read(PUBLISHED, "x")
OURS = Measured.read(MEASURED, "x")


def cells(*rows):
    return table.parts(rows)[0][2]


def test_what_nobody_has_run_is_empty():
    assert cells(THEIRS)[0][-3:] == ["83.6", "", ""]


def test_ours_stands_beside_with_spread_and_difference():
    mine = dataclasses.replace(OURS, value=83.2, seeds=(0, 1), spread=0.1, checkpoint_hash=",".join(["0" * 64] * 2))
    assert cells(THEIRS, mine)[0][-3:] == ["83.6", "83.20 ± 0.10 (2 seeds)", "-0.40 *"]
    assert cells(THEIRS, dataclasses.replace(mine, value=83.4))[0][-1] == "-0.20"
    assert cells(dataclasses.replace(THEIRS, tolerance=0.5), mine)[0][-1] == "-0.40"


def test_better_than_the_paper_is_no_fault_and_errors_count_downwards():
    assert compare.Line(THEIRS, dataclasses.replace(OURS, value=90.0)).within
    error = dataclasses.replace(THEIRS, metric="IN-C error")
    assert not compare.Line(error, dataclasses.replace(OURS, value=90.0)).within
    assert compare.Line(error, dataclasses.replace(OURS, value=10.0)).within


def test_another_scale_is_not_held_against_the_paper():
    small = dataclasses.replace(OURS, scale="cifar10", baselines={"untrained": 38.8})
    (_, _, beside), (_, _, alone) = table.parts([THEIRS, small])
    assert beside[0][-2:] == ["", ""]
    assert alone[0][-4:] == ["83.60", "38.80", "", ""]


def test_uncertain_numbers_are_marked():
    unsure = dataclasses.replace(THEIRS, certainty="uncertain")
    assert cells(unsure)[0][5] == "83.6 ?"
    assert "83.6 ?" in table.markdown([unsure]) and "not checked against the paper" in table.markdown([unsure])


def test_markdown_escapes_what_would_end_a_cell():
    odd = dataclasses.replace(THEIRS, model="a|b <img src=x> *c*")
    assert "a\\|b &lt;img src=x> \\*c\\*" in table.markdown([odd])


def test_csv_holds_every_column():
    found = list(csv.DictReader(io.StringIO(table.to_csv([THEIRS, OURS]))))
    assert found[0]["published"] == "83.6" and found[0]["ours"] == "83.6" and found[0]["within"] == "True"
    assert found[0]["tolerance"] == str(measure("fine-tune top-1").tolerance)


def test_rows_are_chosen_by_words(capsys):
    assert main(["results", "--system", "dmae", "--metric", "fine-tune", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("dmae/vit_b16" in line for line in lines[1:])
    assert main(["results", "--system", "maee"]) == 2
    assert "no row has system 'maee'; did you mean 'mae'?" in capsys.readouterr().err


def test_only_what_was_run(capsys):
    assert main(["results", "--run", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows and all(row["ours"] for row in rows)


@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_all_rows_print(form, capsys):
    assert main(["results", "--format", form]) == 0
    assert "mae/vit_b16/imagenet1k/1600ep/finetune" in capsys.readouterr().out


def test_rows_of_another_file_stand_beside(tmp_path, capsys):
    from mim_jax.results import files

    path = tmp_path / "mine.json"
    files.append(path, [OURS])
    assert main(["results", PUBLISHED["id"], "--format", "csv", "--add", str(path)]) == 0
    assert any(row["ours"] == "83.6" for row in csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_no_such_row():
    with pytest.raises(DataError, match="no row has metric 'ap50'"):
        compare.choose([THEIRS], metric="ap50")


@pytest.mark.parametrize(
    ("words", "protocol", "changes"),
    [
        ("fine-tune top-1", "finetune", ()),
        ("fine-tune top-1 at 384 px", "finetune", ("evaluation.finetune.image_size=384,384",)),
        ("fine-tune top-1, last 0.5 blocks", "finetune", ("evaluation.finetune.trainable_blocks=0.5",)),
        ("fine-tune top-1, last 0 blocks", "linear", ()),
        ("COCO box AP", "", ()),
        ("linear top-1, points gained", "", ()),
        ("anything else", "", ()),
    ],
)
def test_metrics_are_understood(words, protocol, changes):
    found = measure(words)
    assert (found.protocol, found.changes) == (protocol, changes)
    assert found.protocol or found.lacks
