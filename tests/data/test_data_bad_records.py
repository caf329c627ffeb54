"""Bad records stop the run with their name, or are replaced, counted and written down."""

from __future__ import annotations

import numpy as np
import pytest

from mim_jax.data import eval_batches, train_batches
from mim_jax.data.bad import BadRecords
from mim_jax.errors import DataError


@pytest.fixture
def config(class_folder, data_config, encode, photo):
    """40 photos, of which number 7 is empty, 23 truncated and 30 no image."""
    for name, data in (("cat/007", b""), ("dog/023", encode(photo(0), "JPEG")[:300]), ("dog/030", b"GIF89")):
        (class_folder / f"{name}.png").write_bytes(data)
    folder = f"folder:{class_folder}"
    return data_config(folder, eval_source=folder, on_error="skip", max_bad_fraction=0.1)


def epoch(config, **options):
    batches = train_batches(config, **({"seed": 5, "batch_size": 8} | options))
    found = [next(batches) for _ in range(batches.steps_per_epoch)]
    batches.close()
    return found, batches


def test_stop_names_file_and_record(config):
    config.on_error = "stop"
    batches = train_batches(config, seed=5, batch_size=40)
    with pytest.raises(
        DataError, match=r"record (7 'cat.007.png'|23 'dog.023.png'|30 'dog.030.png') of data source 'folder:"
    ):
        next(batches)
    assert batches.get_state() == {"step": 0}
    with pytest.raises(DataError):  # and again, rather than going on behind it
        next(batches)


def test_skip_replaces_the_record_and_only_it(config, class_folder, tmp_path, encode, photo):
    found, batches = epoch(config, bad_records=tmp_path / "bad.txt")
    whole = {key: np.concatenate([b[key] for b in found]) for key in found[0]}
    assert not {7, 23, 30} & set(whole["index"].tolist())
    assert batches.bad_records.indices == {7, 23, 30}
    np.testing.assert_array_equal(whole["label"], whole["index"] // 20)
    lines = sorted((tmp_path / "bad.txt").read_text().splitlines())
    assert [line.split("\t")[0] for line in lines] == ["23", "30", "7"]
    assert "'cat/007.png'" in lines[2]
    assert "zero bytes" in lines[2]
    # With whole files in their place nothing else in the epoch changes.
    for number, folder in ((7, "cat"), (23, "dog"), (30, "dog")):
        (class_folder / folder / f"{number:03}.png").write_bytes(encode(photo(number)))
    mended, _ = epoch(config)
    mended = {key: np.concatenate([b[key] for b in mended]) for key in mended[0]}
    places = np.isin(mended["index"], [7, 23, 30])
    assert places.sum() == 3
    np.testing.assert_array_equal(whole["image"][~places], mended["image"][~places])
    assert (whole["index"][places] != mended["index"][places]).all()


def test_replacement_does_not_depend_on_batch_or_threads(config):
    order = [np.concatenate([b["image"] for b in epoch(config, batch_size=size)[0]]) for size in (8, 20)]
    np.testing.assert_array_equal(*order)


def test_too_many_stop_all_the_same(config, tmp_path):
    config.max_bad_fraction = 0.05  # two of forty
    batches = train_batches(config, seed=5, batch_size=40, bad_records=tmp_path / "bad.txt")
    with pytest.raises(
        DataError, match="3 of 40 records are bad, more than data.max_bad_fraction = 0.05; all are in '.*bad.txt'"
    ):
        next(batches)
    assert len((tmp_path / "bad.txt").read_text().splitlines()) == 3


def test_what_was_written_before_counts(tmp_path):
    path = tmp_path / "bad.txt"
    first = BadRecords(path, total=100, most=0.02)
    first.add([(3, "is\nempty"), (3, "again")])
    later = BadRecords(path, total=100, most=0.02)
    later.add([(3, "is empty"), (4, "too")])
    assert path.read_text() == "3\tagain\n4\ttoo\n"
    with pytest.raises(DataError, match="3 of 100"):
        later.add([(5, "and this")])


def test_data_that_is_all_bad_ends(tmp_path, data_config):
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(b"")
    data = data_config(f"folder:{tmp_path}", on_error="skip", max_bad_fraction=1.0)
    with pytest.raises(DataError, match="drawn in its place are bad too"):
        next(train_batches(data, seed=0, batch_size=4))


def test_a_missing_label_is_a_bad_record(tmp_path, data_config):
    from mim_jax.data.convert import write_arrayrecord

    image = np.zeros((8, 8, 3), np.uint8)
    write_arrayrecord(
        ({"image": image, "label": i or None, "name": str(i)} for i in (1, 2, 0, 3)), tmp_path / "x.arrayrecord"
    )
    source = f"arrayrecord:{tmp_path}/x.arrayrecord"
    data = data_config(source, eval_source=source)
    with pytest.raises(DataError, match="record 2 '0' of data source .* has no label"):
        list(eval_batches(data, batch_size=4))


def test_evaluation_marks_bad_records_invalid(config):
    batches = list(eval_batches(config, batch_size=8))
    valid = np.concatenate([b["valid"] for b in batches])
    np.testing.assert_array_equal(np.flatnonzero(~valid), [7, 23, 30])
    config.on_error = "stop"
    with pytest.raises(DataError, match="record 7 'cat.007.png'"):
        list(eval_batches(config, batch_size=8))
