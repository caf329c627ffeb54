"""Statistics against NumPy, a grid that can be looked at, a benchmark that counts; and what importing costs."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from mim_jax.data import tools
from mim_jax.errors import DataError


@pytest.fixture
def config(class_folder, data_config):
    data = data_config(f"folder:{class_folder}")
    return ConfigDict({"seed": 3, "data": data, "training": {"batch_size": 12}})


def test_stats_equal_numpy(class_folder, photo, capsys):
    found = tools.stats(f"folder:{class_folder}")
    everything = np.stack([photo(i) for i in range(40)]) / 255
    assert found["images"] == 40
    np.testing.assert_allclose(found["mean"], everything.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(found["std"], everything.std((0, 1, 2)), rtol=1e-9)
    assert f"{found['mean'][0]:.4f}, " in capsys.readouterr().out


def test_stats_of_a_part_and_of_other_types(tmp_path, class_folder):
    assert tools.stats(f"folder:{class_folder}", limit=7)["images"] == 7
    wide = np.random.default_rng(0).integers(0, 65536, (6, 5, 4, 5), dtype=np.uint16)
    np.save(tmp_path / "wide.npy", wide)
    np.testing.assert_allclose(tools.stats(f"npy:{tmp_path}/wide.npy")["mean"], wide.mean((0, 1, 2)) / 65535)
    np.save(tmp_path / "unit.npy", wide.astype(np.float32) / 65535)
    np.testing.assert_allclose(tools.stats(f"npy:{tmp_path}/unit.npy")["std"], wide.std((0, 1, 2)) / 65535, rtol=1e-5)


def test_stats_of_grey_files(tmp_path, encode, photo):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encode(photo(i)[..., 0]))
    assert len(tools.stats(f"folder:{tmp_path}")["mean"]) == 1
    assert len(tools.stats(f"folder:{tmp_path}", channels=3)["mean"]) == 3
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="record 0 '0.png'"):
        tools.stats(f"folder:{tmp_path}")


def test_show_writes_a_grid(config, tmp_path, photo):
    config.data.views.image.update({"crop": "center", "flip": 1.0, "size": (20, 24)})
    config.data.eval_resize = 20
    path = tools.show(config, tmp_path / "grid.png", count=3, draws=2)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (3 * 22 + 2, 3 * 26 + 2, 3)
    shown = sheet[2:22, 2:26]
    assert any(np.array_equal(shown, photo(i)) for i in range(40))
    np.testing.assert_array_equal(sheet[2:22, 28:52], shown[:, ::-1])
    assert (sheet[:, :2] == 255).all()
    assert [p.name for p in tmp_path.glob("grid*")] == ["grid.png"]


def test_show_of_many_channels(tmp_path, data_config):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 65536, (12, 9, 9, 5), dtype=np.uint16))
    data = data_config(f"npy:{tmp_path}/x.npy", channels=5)
    config = ConfigDict({"seed": 0, "data": data, "training": {"batch_size": 2}})
    assert Image.open(tools.show(config, tmp_path / "grid.png", count=2)).mode == "RGB"


def test_bench_counts_every_stage(config):
    found = tools.bench(config, seconds=0.2)
    assert list(found) == ["decode", "view", "pipeline", "warm"]
    assert min(found.values()) > 0


def test_importing_data_brings_neither_jax_nor_tensorflow_nor_grain():
    code = (
        "import sys, mim_jax.data, mim_jax.data.check, mim_jax.data.sources, mim_jax.data.tools, mim_jax.data.ordered\n"
        "mim_jax.data.train_batches\n"
        "heavy = ('jax', 'tensorflow', 'grain', 'tensorflow_datasets', 'pyarrow', 'sklearn')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=paths)
    assert done.stdout.strip() == "[]"
