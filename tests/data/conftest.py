"""Small images, files and configs for the tests of data."""

from __future__ import annotations

import io

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from mim_jax import recipes


def encode(array: np.ndarray, form: str = "PNG", **options) -> bytes:
    """An array as the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def photo(seed: int, height: int = 20, width: int = 24, channels: int = 3) -> np.ndarray:
    """A smooth random image, different for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return large if channels == 3 else large[..., :channels]


@pytest.fixture(name="encode")
def _encode():
    return encode


@pytest.fixture(name="photo")
def _photo():
    return photo


@pytest.fixture
def data_config():
    """Makes the `data` section of a config for 8 x 8 views, with changes: `data_config(source=...)`."""

    def make(source: str, *, view: dict | None = None, **changes) -> ConfigDict:
        config = ConfigDict(recipes.data())
        config.source = source
        config.views.image.size = (8, 8)
        config.eval_resize, config.threads, config.prefetch = 8, 2, 2
        config.update(changes)
        if "channels" in changes and "mean" not in changes:
            config.mean = config.std = (0.5,) * changes["channels"]
        config.views.image.update(view or {})
        return config

    return make


@pytest.fixture
def class_folder(tmp_path):
    """A folder of 2 classes and 40 PNG files, all different."""
    for i in range(40):
        folder = tmp_path / "photos" / ("cat" if i < 20 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03}.png").write_bytes(encode(photo(i)))
    return tmp_path / "photos"
