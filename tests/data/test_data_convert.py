"""array_record files and TensorFlow Datasets folders are written and read back, without TensorFlow."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest

from mim_jax.data.convert import to_arrayrecord, to_tfds, write_arrayrecord
from mim_jax.data.sources import open_source
from mim_jax.data.sources.arrayrecord import pack, unpack
from mim_jax.data.sources.tfds import split_target
from mim_jax.errors import DataError


def as_set(source):
    return {(r["image"], r["label"]) for r in (source[i] for i in range(len(source)))}


def test_pack_and_unpack_files_and_arrays():
    record = {"image": b"\x00\xff", "label": 3, "name": "straße/1.jpg"}
    assert unpack(pack(record)) == record
    for dtype in ("uint8", ">u2", "float32"):
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)
        back = unpack(pack({"image": array, "label": None, "name": "x"}))
        np.testing.assert_array_equal(back["image"], array)
        assert back["image"].dtype == np.dtype(dtype).newbyteorder("=")
    for broken in (b"", b"abc", pack(record)[:9], b"\x02\x00\x00\x00[]"):
        with pytest.raises(DataError, match="not in the layout"):
            unpack(broken)


def test_arrayrecord_shards(class_folder, tmp_path):
    paths = to_arrayrecord(f"folder:{class_folder}", tmp_path / "out", shard_size=16)
    assert [os.path.basename(p) for p in paths][-1] == "data-00002-of-00003.arrayrecord"
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.path.basename(p) for p in paths)
    original, copy = open_source(f"folder:{class_folder}"), open_source(f"arrayrecord:{tmp_path}/out")
    assert [copy[i] for i in range(40)] == [original[i] for i in range(40)]
    assert pickle.loads(pickle.dumps(copy))[39] == original[39]
    assert copy.labelled


def test_arrayrecord_of_arrays_takes_their_type(tmp_path):
    images = np.random.default_rng(0).integers(0, 65536, (3, 5, 6, 7), dtype=np.uint16)
    records = ({"image": image, "label": None, "name": str(i)} for i, image in enumerate(images))
    assert write_arrayrecord(records, tmp_path / "x.arrayrecord") == 3
    source = open_source(f"arrayrecord:{tmp_path}/x.arrayrecord")
    assert (source.dtype, source.labelled) == (np.uint16, False)
    np.testing.assert_array_equal(source[2]["image"], images[2])


def test_a_failed_writer_leaves_no_file(tmp_path):
    def records():
        yield {"image": b"x", "label": None, "name": "x"}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_arrayrecord(records(), tmp_path / "x.arrayrecord")
    assert not list(tmp_path.iterdir())


def test_foreign_arrayrecord_is_refused(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "x.arrayrecord"), "group_size:1")
    writer.write(b"something else")
    writer.close()
    with pytest.raises(DataError, match="first record of .*x.arrayrecord. is not in the layout"):
        open_source(f"arrayrecord:{tmp_path}/x.arrayrecord")


def test_tfds_is_prepared_and_read_without_tensorflow(class_folder, tmp_path):
    folder = to_tfds({"train": f"folder:{class_folder}", "val": f"folder:{class_folder}"}, "photos", tmp_path)
    original = open_source(f"folder:{class_folder}")
    source = open_source(f"tfds:photos:val?data_dir={tmp_path}")
    assert source.classes == ("cat", "dog")
    assert as_set(source) == as_set(original)
    assert as_set(pickle.loads(pickle.dumps(source))) == as_set(original)
    assert len(open_source(f"tfds:photos:1.0.0:train[:25%]?data_dir={tmp_path}")) == 10
    assert len(open_source(f"tfds:{folder}")) == 40
    assert len(open_source(f"tfds:{folder}:train+val")) == 80
    for spec, sentence in (
        (f"tfds:photo?data_dir={tmp_path}", "did you mean 'photos'?"),
        (f"tfds:photos:vall?data_dir={tmp_path}", "no split 'vall'; did you mean 'val'?"),
        (f"tfds:{folder}:train?label=labels", "no label feature 'labels'; did you mean 'label'?"),
    ):
        with pytest.raises(DataError, match=sentence):
            open_source(spec)
    with pytest.raises(DataError, match="is there already"):
        to_tfds({"train": f"folder:{class_folder}"}, "photos", tmp_path)
    assert "tensorflow" not in sys.modules


def test_tfds_cannot_be_made_of_arrays(tmp_path):
    with pytest.raises(DataError, match="holds arrays"):
        to_tfds({"train": "digits:test"}, "digits", tmp_path)


@pytest.mark.parametrize(
    ("target", "name", "split"),
    [
        ("mnist", "mnist", "train"),
        ("mnist:test", "mnist", "test"),
        ("mnist:3.0.1", "mnist:3.0.1", "train"),
        ("mnist:3.0.1:test[:10%]", "mnist:3.0.1", "test[:10%]"),
        ("mnist/config:train[5:10]+test", "mnist/config", "train[5:10]+test"),
    ],
)
def test_tfds_target(target, name, split):
    assert split_target(target) == (name, split)
