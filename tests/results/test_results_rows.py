"""results/*.json: every row is whole, its id unique, its config can run; bad rows are refused with a reason."""

from __future__ import annotations

import json

import pytest

from mim_jax import config as configs
from mim_jax import stages
from mim_jax.errors import DataError, MimError
from mim_jax.results import files
from mim_jax.results.metrics import measure
from mim_jax.results.row import Measured, Published

PUBLISHED = {
    "id": "mae/vit_b16/imagenet1k/1600ep/finetune",
    "method": "mae",
    "paper": "He et al.",
    "table": "3",
    "model": "ViT-B/16",
    "data": "ImageNet-1K",
    "epochs": 1600,
    "metric": "fine-tune top-1",
    "value": 83.6,
    "source": "paper",
    "certainty": "certain",
    "config": "configs/mae/imagenet1k.py",
}
MEASURED = {key: PUBLISHED[key] for key in ("method", "model", "data", "epochs", "metric", "value", "config")} | {
    "id": "mae/vit_b16/imagenet1k/1600ep/finetune/0a1b2c3d",
    "row": PUBLISHED["id"],
    "seeds": [0],
    "hardware": "1 x cpu",
    "command": "mim-jax eval",
    "commit": "",
    "checkpoint_hash": "0" * 64,
}


@pytest.fixture(scope="module")
def rows():
    return files.load()


def test_every_row_is_whole_and_its_id_unique(rows):
    assert len(rows) > 500 and len({row.id for row in rows}) == len(rows)
    for row in rows:
        if isinstance(row, Published):
            assert row.config or row.note or not measure(row.metric).protocol or row.certainty, row.id
        if row.where == "measured" and row.row:
            assert row.row in {other.id for other in rows}, f"{row.id} repeats a row that is not there"


def test_rows_stand_in_the_file_of_their_system_in_the_form_that_is_written(root):
    for path in files.paths(root / "results"):
        published, measured = files.read(path)
        assert {row.method for row in published + measured} <= {path.stem}
        assert path.read_text() == files.text(published, measured), f"{path.name} is not as `files.text` writes it"


def test_logs_of_measured_rows_are_there(rows, root):
    for log in {row.log for row in rows if isinstance(row, Measured) and row.log}:
        assert (root / log).is_file(), log


def specs(system: str = "") -> list[str]:
    return sorted({row.config for row in files.load() if row.config and row.where == "published"})


@pytest.mark.parametrize("system", sorted({spec.split("/")[1] for spec in specs()}))
def test_the_config_of_every_published_row_can_run(system, root):
    for spec in specs():
        if spec.split("/")[1] == system:
            stages.check(configs.load(str(root / spec)))


def test_a_row_goes_to_a_file_and_back():
    for kind, values in ((Published, PUBLISHED), (Measured, MEASURED)):
        row = kind.read(values, "mae.json")
        assert row.to_json() == values
        assert kind.read(json.loads(json.dumps(row.to_json())), "mae.json") == row


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (Published, {"certainty": "sure"}, "certainty 'sure' is not one of certain, uncertain"),
        (Published, {"certianty": "certain"}, "there is no key 'certianty'; did you mean 'certainty'"),
        (Published, {"value": "83.6"}, "value = '83.6' is not int | float"),
        (Published, {"value": True}, "value = True is not"),
        (Published, {"id": "b-1600-finetune"}, "METHOD/MODEL/DATA/LENGTH/MEASURE"),
        (Published, {"id": "beit/vit_b16/imagenet1k/1600ep/finetune"}, "does not begin with the method, 'mae'"),
        (Published, {"paper": ""}, "names its paper and its source"),
        (Published, {"changes": "evaluation.x=1"}, "changes = 'evaluation.x=1' is not a list"),
        (Published, {"tolerance": -1}, "not negative"),
        (Measured, {"seeds": []}, "at least one whole number"),
        (Measured, {"checkpoint_hash": "abc"}, "64 hex digits for each of the 1 seeds"),
        (Measured, {"spread": 0.1}, "needs two seeds or more"),
        (Measured, {"hardware": ""}, "names its hardware"),
        (Measured, {"baselines": [1]}, "baselines is not an object"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_and_id(kind, change, words):
    values = {**(PUBLISHED if kind is Published else MEASURED), **change}
    with pytest.raises(DataError, match="^mae.json, ") as caught:
        kind.read(values, "mae.json")
    assert words in str(caught.value) and values["id"] in str(caught.value)


def test_a_missing_key_is_named():
    with pytest.raises(DataError, match="the key 'value' is missing"):
        Published.read({key: value for key, value in PUBLISHED.items() if key != "value"}, "mae.json")


def test_a_row_is_found_by_a_part_of_its_id_that_is_its_own(rows):
    assert files.find("mae/vit_b16/imagenet1k/1600ep/finetune", rows).value == 83.6
    assert files.find("dmae/vit_b16/imagenet1k/100ep/finetune/ratio98", rows).method == "dmae"
    with pytest.raises(MimError, match="stands for .* rows: .*give one of them whole"):
        files.find("mae", rows)
    with pytest.raises(
        MimError, match="there is no published row 'mae/vit_b16/imagenet1k/1600ep/fintune'; did you mean"
    ):
        files.find("mae/vit_b16/imagenet1k/1600ep/fintune", rows)


def test_rows_are_added_once_and_nothing_else_changes(tmp_path):
    path = tmp_path / "results" / "mae.json"
    row = Measured.read(MEASURED, "x")
    assert files.append(path, [row]) == [row]
    path.write_text(files.text([Published.read(PUBLISHED, "x")], [row]))
    before = path.read_text()
    assert files.append(path, [row]) == []
    assert path.read_text() == before and [p.name for p in path.parent.iterdir()] == ["mae.json"]
    other = Measured.read(MEASURED | {"id": f"{PUBLISHED['id']}/ffffffff", "checkpoint_hash": "f" * 64}, "x")
    files.append(path, [other])
    published, measured = files.read(path)
    assert [r.to_json() for r in published] == [PUBLISHED] and measured == [row, other]


def test_a_damaged_file_is_left_as_it_is(tmp_path):
    path = tmp_path / "mae.json"
    path.write_text('{"published": [')
    with pytest.raises(DataError, match="mae.json cannot be read as results"):
        files.append(path, [Measured.read(MEASURED, "x")])
    with pytest.raises(DataError, match="mae.json cannot be read"):
        files.check_writable(path)
    assert path.read_text() == '{"published": ['


def test_an_id_that_stands_twice_is_refused(tmp_path):
    for name in ("mae", "beit"):
        (tmp_path / f"{name}.json").write_text(files.text([Published.read(PUBLISHED, "x")], []))
    with pytest.raises(DataError, match="two rows have the id mae/vit_b16"):
        files.load(tmp_path)


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no results"):
        files.load(tmp_path)
