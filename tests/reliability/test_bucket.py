"""Run directories at an address. The address is a folder of this machine (file://), which no real bucket is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import processes
import pytest
from test_processes import DIGITS, assert_same, logged, train_words

from mim_jax import config as configs
from mim_jax import stages
from mim_jax.errors import ConfigError
from mim_jax.training import bucket
from mim_jax.training.lock import RunLock
from mim_jax.training.runs import load_run


@pytest.fixture
def address(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("MIM_JAX_RUNS", str(tmp_path / "here"))
    return f"file://{tmp_path}/there/run"


def there(address: str) -> Path:
    return Path(address.removeprefix("file://"))


def small(root, *more):
    return configs.load(str(root / "configs/mae/digits.py"), [*DIGITS, *more])


def test_a_run_at_an_address_goes_on_on_another_host(root, tmp_path, address, monkeypatch):
    """Three epochs in a folder, and the same at an address with a host that is lost after two."""
    alone = tmp_path / "alone"
    stages.train(small(root, "training.epochs=3"), alone)
    stages.train(small(root), address)
    assert sorted(p.name for p in (there(address) / "checkpoints").iterdir() if p.name.isdigit()) == ["10", "5"]
    assert bucket.LARGE[0] not in os.listdir(bucket.local_folder(address, writer=True))
    monkeypatch.setenv("MIM_JAX_RUNS", str(tmp_path / "another host"))
    stages.train(small(root, "training.epochs=3"), address)
    ours = [json.loads(line) for line in (there(address) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in ours if "loss" in line] == list(range(1, 16))
    # The schedule of the first ten steps was that of a shorter run: only what was the same can be compared.
    assert logged(there(address))[(1, "loss")] == logged(alone)[(1, "loss")]
    names = [p for p in processes.folder(there(address)) if "checkpoints" not in p]
    assert {"config.json", "resolved.json", "metrics.jsonl", "events.jsonl", "index.html"} <= set(names)
    assert load_run(address).step == 15


@pytest.mark.slow
def test_several_processes_at_one_address(root, tmp_path, address, fault):
    words = [address if word == "ADDRESS" else word for word in train_words(Path("ADDRESS"))]
    before = Path.cwd()
    os.chdir(root)
    try:
        processes.run(words, 2)
        processes.run(["eval", address, "--knn", "--no-baselines", "--config.evaluation.limit=64"], 1)
    finally:
        os.chdir(before)
    stages.train(small(root), tmp_path / "alone")
    assert_same(logged(there(address)), logged(tmp_path / "alone"))
    assert len(json.loads((there(address) / "eval.json").read_text())) == 1
    fault("two processes, run directory at an address", tried=1, survived=1, lost="nothing")


def test_what_is_gone_at_the_address_is_gone_here(address):
    there(address).mkdir(parents=True)
    (there(address) / "old.txt").write_text("a")
    (there(address) / "checkpoints").mkdir()
    folder = bucket.local_folder(address)
    assert (folder / "old.txt").read_text() == "a" and not (folder / "checkpoints").exists()
    (there(address) / "old.txt").unlink()
    assert not (bucket.local_folder(address) / "old.txt").exists()
    with bucket.opened(address) as folder:
        (folder / "new").mkdir()
        (folder / "new" / "b.txt").write_text("b")
    assert (there(address) / "new" / "b.txt").read_text() == "b"


def test_a_second_run_of_this_host_is_refused(address):
    folder = bucket.local_folder(address, writer=True)
    with RunLock(folder), pytest.raises(ConfigError, match=f"{address} is being written by a run on this host"):
        bucket.local_folder(address, writer=True)
    bucket.local_folder(address, writer=True)


def test_an_address_that_cannot_be_read_is_said():
    with pytest.raises(ConfigError, match=r"nowhere://bucket/run cannot be read .* install gcsfs"):
        bucket.local_folder("nowhere://bucket/run")


def test_a_folder_is_a_folder(tmp_path):
    assert bucket.local_folder(tmp_path) == tmp_path and bucket.places(tmp_path) == [tmp_path]
    assert bucket.join(tmp_path, "a") == tmp_path / "a" and bucket.join("gs://b/run/", "a") == "gs://b/run/a"
