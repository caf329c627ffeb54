"""Training batches are a function of (data, seed, step): not of threads, workers, processes, batch size or pauses."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from mim_jax import recipes
from mim_jax.data import chunks, open_source, steps_per_epoch, train_batches
from mim_jax.data.decode import decode, pixels
from mim_jax.errors import ConfigError, DataError


@pytest.fixture
def config(class_folder, data_config):
    """40 photos, all of them for training."""
    return data_config(f"folder:{class_folder}", eval_source="digits:test")


def take(data, count, **options):
    options = {"seed": 1, "batch_size": 8} | options
    batches = train_batches(data, **options)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
            assert a[key].dtype == b[key].dtype


def by_record(batches, per_epoch):
    """(epoch, record) -> image."""
    return {
        (step // per_epoch, int(index)): image
        for step, batch in enumerate(batches)
        for index, image in zip(batch["index"], batch["image"], strict=True)
    }


def test_batches_hold_what_they_should(config):
    (batch,) = take(config, 1)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((8, 8, 8, 3), "uint8"),
        "index": ((8,), "int64"),
        "label": ((8,), "int32"),
    }
    np.testing.assert_array_equal(batch["label"], batch["index"] // 20)


def test_an_epoch_is_a_shuffle_without_the_remainder(config):
    batches = train_batches(config, seed=1, batch_size=12)
    assert (batches.records, batches.steps_per_epoch, steps_per_epoch(config, 12)) == (40, 3, 3)
    epochs = [np.concatenate([next(batches)["index"] for _ in range(3)]) for _ in range(4)]
    for epoch in epochs:
        assert len(np.unique(epoch)) == 36
    assert len({tuple(e) for e in epochs}) == 4
    assert len({int(i) for e in epochs for i in e}) == 40  # others are left out every time
    other = np.concatenate([b["index"] for b in take(config, 3, seed=2, batch_size=12)])
    assert tuple(other) != tuple(epochs[0])
    batches.close()


def test_pixels_are_those_of_the_record(config, class_folder, photo):
    config.views.image.update({"size": (20, 24), "crop": "center", "flip": 1.0})
    config.eval_resize = 20
    (batch,) = take(config, 1)
    for index, image in zip(batch["index"], batch["image"], strict=True):
        np.testing.assert_array_equal(image, photo(int(index))[:, ::-1])


def test_crops_belong_to_record_and_epoch_not_to_the_batch(config):
    small = by_record(take(config, 20, batch_size=4), 10)
    large = by_record(take(config, 8, batch_size=10, seed=1), 4)
    assert set(small) == set(large)
    for key, image in small.items():
        np.testing.assert_array_equal(image, large[key])
    changed = [not np.array_equal(small[0, i], small[1, i]) for i in range(40)]
    assert np.mean(changed) > 0.9  # a new crop every epoch


@pytest.mark.parametrize("changes", [{"threads": 1}, {"threads": 16}, {"prefetch": 1}, {"prefetch": 9}])
def test_threads_and_prefetch_change_nothing(config, changes):
    expected = take(config, 11)
    config.update(changes)
    same(take(config, 11), expected)


def test_chunks_change_nothing(config, monkeypatch):
    expected = take(config, 11)
    for size in (1, 3 * 8 * 8 * 3):
        monkeypatch.setattr(chunks, "CHUNK_BYTES", size)
        same(take(config, 11), expected)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_same_global_batches(config, count):
    expected = take(config, 7)
    parts = [take(config, 7, process_index=k, process_count=count) for k in range(count)]
    joined = [{key: np.concatenate([p[key] for p in step]) for key in step[0]} for step in zip(*parts, strict=True)]
    same(joined, expected)


def test_resuming_anywhere_gives_the_same_batches(config):
    expected = take(config, 12)
    batches = train_batches(config, seed=1, batch_size=8)
    for _ in range(7):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    for _ in range(2):
        next(batches)
    batches.set_state(state)
    same([next(batches) for _ in range(5)], expected[7:])
    batches.close()
    same(take(config, 5, step=7), expected[7:])
    other = train_batches(config, seed=1, batch_size=8, process_count=2, process_index=1)
    other.set_state(state)
    np.testing.assert_array_equal(next(other)["image"], expected[7]["image"][4:])
    other.close()


def test_worker_processes_change_nothing(config, class_folder, tmp_path):
    """Also with a bad record, from a position reached without workers, and under signals meant for the main process."""
    (class_folder / "cat" / "003.png").write_bytes(b"")
    config.update({"on_error": "skip", "max_bad_fraction": 0.1})
    batches = train_batches(config, seed=1, batch_size=8, bad_records=tmp_path / "expected.txt")
    expected = [next(batches) for _ in range(13)]
    batches.close()
    config.workers = 2
    batches = train_batches(config, seed=1, batch_size=8, bad_records=tmp_path / "bad.txt")
    batches.set_state({"step": 4})
    found = [next(batches) for _ in range(2)]
    for worker in multiprocessing.active_children():  # as when a whole process group is told to end
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    same([*found, *(next(batches) for _ in range(7))], expected[4:])
    assert (tmp_path / "bad.txt").read_text() == (tmp_path / "expected.txt").read_text() != ""
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(DataError, match="a worker process of the data pipeline died"):
        take_all(batches)


def take_all(batches):
    for _ in batches:
        pass


def test_workers_end_when_the_main_process_is_killed(config, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import os, signal, sys, multiprocessing\n"
        "from ml_collections import ConfigDict\n"
        "from mim_jax.data import train_batches\n"
        "if __name__ == '__main__':\n"
        "    import json\n"
        "    batches = train_batches(ConfigDict(json.loads(sys.argv[1])), seed=0, batch_size=8)\n"
        "    next(batches)\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    config.workers = 1
    # The pipe closes when the last process that holds it, worker or not, has ended.
    done = subprocess.run(
        [sys.executable, str(script), config.to_json_best_effort()],
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -9, done.stderr.decode()
    assert done.stdout.split()


def test_several_views_of_one_record(config):
    config.views.unlock()
    config.views.small = {**recipes.view(size=(4, 6)), "scale": (0.05, 0.2)}
    (batch,) = take(config, 1)
    assert batch["image"].shape == (8, 8, 8, 3)
    assert batch["small"].shape == (8, 4, 6, 3)
    del config.views["small"]
    np.testing.assert_array_equal(take(config, 1)[0]["image"], batch["image"])  # views do not disturb each other


@pytest.mark.parametrize(("dtype", "channels"), [("uint16", 5), ("float32", 1), ("uint8", 4)])
def test_arrays_of_any_type_and_channels(tmp_path, data_config, dtype, channels):
    images = (np.random.default_rng(0).random((20, 9, 12, channels)) * (1 if dtype == "float32" else 200)).astype(dtype)
    np.save(tmp_path / "x.npy", images)
    data = data_config(f"npy:{tmp_path}/x.npy", channels=channels, eval_resize=9)
    data.views.image.update({"size": (9, 12), "crop": "center", "flip": 0.0})
    (batch,) = take(data, 1)
    assert "label" not in batch
    np.testing.assert_array_equal(batch["image"], images[batch["index"]])
    assert batch["image"].dtype == dtype


def test_16_bit_files(tmp_path, data_config, encode):
    wide = np.random.default_rng(0).integers(0, 65536, (4, 8, 8), dtype=np.uint16)
    for i, image in enumerate(wide):
        (tmp_path / f"{i}.png").write_bytes(encode(image))
    data = data_config(f"folder:{tmp_path}?depth=16", channels=1, view={"crop": "center", "flip": 0.0})
    (batch,) = take(data, 1, batch_size=3)
    np.testing.assert_array_equal(batch["image"][..., 0], wide[batch["index"]])


def test_held_out_tenth_never_trains(class_folder, data_config):
    data = data_config("digits", channels=1)
    batches = train_batches(data, seed=0, batch_size=1617)
    assert batches.steps_per_epoch == 1
    trained = next(batches)["index"]
    batches.close()
    held_out = np.setdiff1d(np.arange(1797), trained)
    assert len(held_out) == 180
    assert len(np.unique(held_out // 10)) == 180  # one of every ten


def test_memory_holds_small_data_once(config, monkeypatch):
    from mim_jax.data import records

    expected = take(config, 11)
    reads = []
    original = records.decode
    monkeypatch.setattr(records, "decode", lambda *a, **k: reads.append(1) or original(*a, **k))
    same(take(config, 11), expected)
    assert len(reads) <= 40 + 2  # two threads may meet at one record
    monkeypatch.setattr(records, "AUTO_BYTES", 1000)
    reads.clear()
    same(take(config, 11), expected)
    assert len(reads) >= 88


def test_impossible_batches(config):
    with pytest.raises(DataError, match="batch_size 41 is larger than the 40 training records"):
        train_batches(config, seed=0, batch_size=41)
    with pytest.raises(ConfigError, match="batch_size 8 does not divide into 3 equal parts"):
        train_batches(config, seed=0, batch_size=8, process_count=3)


def test_acceptance_data(shared, data_config):
    data = data_config(f"wds:{shared}/data/imagenet_sample/*.tar", view={"crop": "center", "flip": 0.0})
    (batch,) = take(data, 1)
    source = open_source(data.source)
    first = int(batch["index"][0])
    assert batch["label"][0] == source[first]["label"]
    mean = pixels(decode(source[first]["image"], channels=3, dtype=np.dtype(np.uint8))).mean()
    assert abs(batch["image"][0].mean() - mean) < 60
