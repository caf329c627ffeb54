"""Every kind of source: length, records, names, labels, survival of pickling, and sentences for what is not there."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mim_jax.data.decode import decode, pixels
from mim_jax.data.sources import SCHEMES, open_source, parse
from mim_jax.errors import DataError


def image_of(record, channels=3):
    return pixels(decode(record["image"], channels=channels, dtype=np.dtype(np.uint8)))


def check_against(source, images, labels):
    """A source holds these images and labels, also when asked by threads, and after pickling."""
    assert len(source) == len(images)
    for copy in (source, pickle.loads(pickle.dumps(source))):
        with ThreadPoolExecutor(4) as pool:
            records = list(pool.map(copy.__getitem__, range(len(images))))
        for record, image, label in zip(records, images, labels, strict=True):
            np.testing.assert_array_equal(image_of(record), image)
            assert record["label"] == label
    assert len({source.name(i) for i in range(len(source))}) == len(source)
    for wrong in (-1, len(source)):
        with pytest.raises(IndexError):
            source[wrong]


def write_parquet(path, images, labels, *, image="image", label="label", row_group_size=3, metadata=None):
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        image: pa.array([{"bytes": b, "path": None} for b in images], struct),
        label: pa.array(labels, pa.int64()),
    }
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=row_group_size)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_digits():
    from sklearn.datasets import load_digits

    everything, train, test = (open_source(s) for s in ("digits", "digits:train", "digits:test"))
    assert len(everything) == 1797
    assert everything[0]["image"].shape == (32, 32, 1)
    data = load_digits()
    small = np.stack([everything[i]["image"][..., 0].reshape(8, 4, 8, 4).mean((1, 3)) for i in range(100)])
    assert np.corrcoef(small.ravel(), data.images[:100].ravel())[0, 1] > 0.98
    assert [everything[i]["label"] for i in range(1797)] == data.target.tolist()
    names = [{source.name(i) for i in range(len(source))} for source in (train, test)]
    assert names[0] | names[1] == {everything.name(i) for i in range(1797)}
    assert not names[0] & names[1]
    assert len(test) == pytest.approx(1797 / 5, abs=1)
    assert np.bincount([test[i]["label"] for i in range(len(test))], minlength=10).min() > 20
    check_against(
        test,
        [np.repeat(test[i]["image"], 3, 2) for i in range(len(test))],
        [r["label"] for r in map(test.__getitem__, range(len(test)))],
    )


def test_folder_of_classes(class_folder, photo):
    (class_folder / "cat" / "notes.txt").write_text("not an image")
    (class_folder / ".hidden").mkdir()
    source = open_source(f"folder:{class_folder}")
    assert source.classes == ("cat", "dog")
    assert source.name(21) == os.path.join("dog", "021.png")
    check_against(source, [photo(i) for i in range(40)], [0] * 20 + [1] * 20)


def test_flat_folder_has_no_labels(tmp_path, encode, photo):
    for i in range(3):
        (tmp_path / f"{i}.JPG").write_bytes(encode(photo(i)))
    source = open_source(f"folder:{tmp_path}")
    assert not source.labelled
    check_against(source, [photo(i) for i in range(3)], [None] * 3)


def test_parquet_over_files_and_row_groups(tmp_path, encode, photo):
    note = {"huggingface": '{"info": {"features": {"label": {"names": ["a", "b"]}}}}'}
    for part in range(2):
        numbers = range(part * 7, part * 7 + 7)
        write_parquet(
            tmp_path / f"x-{part}.parquet", [encode(photo(i)) for i in numbers], [i % 2 for i in numbers], metadata=note
        )
    source = open_source(f"parquet:{tmp_path}/x-?.parquet")
    assert source.classes == ("a", "b")
    assert source.name(8) == "x-1.parquet row 1"
    check_against(source, [photo(i) for i in range(14)], [i % 2 for i in range(14)])
    check_against(open_source(f"parquet:{tmp_path}?cache=0"), [photo(i) for i in range(14)], [i % 2 for i in range(14)])


def test_parquet_keeps_no_more_than_the_cache_allows(tmp_path):
    write_parquet(tmp_path / "x.parquet", [os.urandom(400_000) for _ in range(8)], [0] * 8, row_group_size=1)
    source = open_source(f"parquet:{tmp_path}/x.parquet?cache=1")
    for i in (*range(8), 0):
        source[i]
    assert list(source._cache) == [7, 0]


def test_parquet_columns_are_found_or_chosen(tmp_path, encode, photo):
    data = [encode(photo(0))]
    write_parquet(tmp_path / "x.parquet", data, [5], image="img", label="fine_label")
    assert open_source(f"parquet:{tmp_path}/x.parquet")[0]["label"] == 5
    table = pa.table(
        {"a": pa.array(data, pa.binary()), "b": pa.array([b"x"], pa.binary()), "n": [3], "fine_label": [4]}
    )
    pq.write_table(table, tmp_path / "y.parquet")
    record = open_source(f"parquet:{tmp_path}/y.parquet?image=a&label=n")[0]
    assert (record["image"], record["label"]) == (data[0], 3)
    for options, sentence in (
        ("", "choose the image column by \\?image=NAME, one of a, b"),
        ("?image=c", "no image column 'c'; valid: a, b"),
        ("?image=a&label=fine_labels", "no integer column 'fine_labels'; did you mean 'fine_label'?"),
    ):
        with pytest.raises(DataError, match=sentence):
            open_source(f"parquet:{tmp_path}/y.parquet{options}")


def test_parquet_acceptance_data(shared):
    source = open_source(f"parquet:{shared}/data/cifar10/train-*.parquet")
    assert len(source) == 50_000
    assert source.classes is not None and source.classes[:2] == ("airplane", "automobile")
    table = pq.read_table(shared / "data" / "cifar10" / "train-00002-of-00005.parquet")
    for row in (0, 999, 1000, 9999):
        record = source[20_000 + row]
        assert record["image"] == table["image"][row].as_py()["bytes"]
        assert record["label"] == table["label"][row].as_py()


def test_webdataset_groups_members_by_name(tmp_path, encode, photo):
    for part in range(2):
        numbers = range(part * 3, part * 3 + 3)
        members = [
            (f"d/{i:03}.{ext}", data)
            for i in numbers
            for ext, data in (("cls", b"%d\n" % i), ("jpg", encode(photo(i))), ("json", b"{}"))
        ]
        write_tar(tmp_path / f"{part}.tar", [*members, (f"only-{part}.txt", b"no image")])
    source = open_source(f"wds:{tmp_path}/*.tar")
    assert source.name(4) == "1.tar/d/004"
    check_against(source, [photo(i) for i in range(6)], list(range(6)))


def test_webdataset_image_member_may_be_chosen(tmp_path, encode, photo):
    write_tar(tmp_path / "x.tar", [("a.low.png", encode(photo(0))), ("a.high.png", encode(photo(1)))])
    np.testing.assert_array_equal(image_of(open_source(f"wds:{tmp_path}/x.tar?image=high.png")[0]), photo(1))
    np.testing.assert_array_equal(image_of(open_source(f"wds:{tmp_path}/x.tar")[0]), photo(0))


def test_webdataset_acceptance_data(shared):
    source = open_source(f"wds:{shared}/data/imagenet_sample/*.tar")
    paths = sorted((shared / "data" / "imagenet_sample").glob("*.tar"))
    expected = []
    for path in paths:
        with tarfile.open(path) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar}
            expected += [
                (data, int(members[name[:-3] + "cls"])) for name, data in members.items() if name.endswith("jpg")
            ]
    assert [(r["image"], r["label"]) for r in map(source.__getitem__, range(len(source)))] == expected


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">u2"])
def test_npy(tmp_path, dtype):
    images = (np.arange(2 * 4 * 5 * 7).reshape(2, 4, 5, 7) % 251).astype(dtype)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "x_labels.npy", np.array([3, 4], np.uint8))
    source = open_source(f"npy:{tmp_path}/x.npy")
    assert source.dtype == np.dtype(dtype).newbyteorder("=")
    assert len(pickle.dumps(source)) < 2000
    for copy in (source, pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(copy[1]["image"], images[1])
        assert copy[1]["image"].dtype == source.dtype
        assert copy[1]["label"] == 4


def test_npy_refuses_what_are_no_images(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((3, 4), np.uint8))
    np.save(tmp_path / "double.npy", np.zeros((3, 4, 4)))
    (tmp_path / "text.npy").write_text("hello")
    for name, sentence in (
        ("flat", "is not \\(N, H, W\\)"),
        ("double", "float64; convert"),
        ("text", "not a whole .npy"),
    ):
        with pytest.raises(DataError, match=sentence):
            open_source(f"npy:{tmp_path}/{name}.npy")
    np.save(tmp_path / "double.npy", np.zeros((3, 4, 4), np.uint8))
    np.save(tmp_path / "double_labels.npy", np.zeros(4, int))
    with pytest.raises(DataError, match="not 3 whole numbers"):
        open_source(f"npy:{tmp_path}/double.npy")


def test_hugging_face_needs_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'mim-jax\[hub\]'"):
        open_source("hf:uoft-cs/cifar10")


def test_hugging_face_saved_to_disk(tmp_path, encode, photo):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets are not installed (extra 'hub')")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"img": [{"bytes": encode(photo(i)), "path": None} for i in range(4)], "label": [0, 1, 0, 1]}
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "two")
    for spec in (f"hf:{tmp_path}/one", f"hf:{tmp_path}/two:test"):
        check_against(open_source(spec), [photo(i) for i in range(4)], [0, 1, 0, 1])
    with pytest.raises(DataError, match="cannot be opened"):
        open_source(f"hf:{tmp_path}/two:tset")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("", "known scheme"),
        ("digit", "did you mean 'digits'?"),
        ("folder", "write for example 'folder:photos/train'"),
        ("digits:tests", "no split 'tests'; did you mean 'test'?"),
        ("digits?size=64", "'size' is not an option"),
        ("folder:{tmp}/photos?dept=16", "'dept' is not an option; did you mean 'depth'?"),
        ("folder:{tmp}/photos?depth=12", "depth must be 8 or 16, not 12"),
        ("folder:{tmp}/photo", "photo' does not exist; did you mean 'photos'?"),
        ("folder:{tmp}/photo/cat", "there is no '.*photo'; did you mean 'photos'?"),
        ("folder:{tmp}/empty", "holds no image files"),
        ("folder:{tmp}/photos/cat/000.png", "is a file, not a folder"),
        ("wds:{tmp}/empty", "holds no .tar files"),
        ("wds:{tmp}/none-*.tar", "no file matches"),
        ("wds:{tmp}/photos/cat/*.png", "not a whole, uncompressed tar file"),
        ("parquet:{tmp}/photos/cat/*.png", "not a readable parquet file"),
        ("arrayrecord:{tmp}/photos/cat/*.png", "not readable as array_record"),
        ("npy:{tmp}/photos/cat/*.png", "matches 20 files; npy reads one"),
        ("tfds:{tmp}/photos", "holds no dataset_info.json"),
    ],
)
def test_what_is_not_there_is_named(class_folder, spec, sentence):
    (class_folder.parent / "empty").mkdir()
    with pytest.raises(DataError, match=sentence):
        open_source(spec.format(tmp=class_folder.parent))


def test_question_mark_may_be_a_wildcard():
    assert parse("wds:data/a-?.tar").target == "data/a-?.tar"
    parsed = parse("wds:data/a-?.tar?image=jpg&depth=16")
    assert (parsed.target, parsed.options) == ("data/a-?.tar", {"image": "jpg", "depth": "16"})


def test_every_scheme_has_its_module():
    for scheme in SCHEMES:
        assert __import__(f"mim_jax.data.sources.{scheme}", fromlist=["open_spec"]).open_spec
