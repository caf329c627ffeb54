"""The grid shows what the method drew, in the right place and colour."""

from __future__ import annotations

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mim_jax.methods.base import Pictures
from mim_jax.report import pictures as pics
from mim_jax.report.pixels import channel_note, to_heat, to_rgb

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)


def normal(pixels, mean, std):
    return jnp.asarray((pixels / 255 - np.asarray(mean)) / np.asarray(std), jnp.float32)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(256, size=(3, 4, 6, 3))


def test_colours_come_back(pixels):
    np.testing.assert_array_equal(to_rgb(normal(pixels, MEAN, STD), MEAN, STD), pixels)


def test_one_channel_is_grey(pixels):
    grey = pixels[..., :1]
    np.testing.assert_array_equal(to_rgb(normal(grey, 0.5, 0.2), (0.5,), (0.2,)), np.repeat(grey, 3, axis=-1))
    assert channel_note(1) == "" and channel_note(3) == ""


def test_two_channels_are_averaged(pixels):
    expected = np.repeat(pixels[..., :2].mean(axis=-1, keepdims=True), 3, axis=-1)
    assert np.abs(to_rgb(normal(pixels[..., :2], 0.5, 0.2), (0.5,), (0.2,)) - expected).max() <= 0.5001
    assert "mean of 2" in channel_note(2)


def test_of_many_channels_the_first_three_are_shown():
    many = np.random.default_rng(1).integers(256, size=(1, 4, 4, 7))
    np.testing.assert_array_equal(to_rgb(normal(many, 0.5, 0.2), (0.5,), (0.2,)), many[..., :3])
    assert "first 3 of 7" in channel_note(7)


def test_heat_maps_share_one_scale():
    maps = np.zeros((2, 2, 2), np.float32)
    maps[0, 0, 0], maps[1, 1, 1] = 4.0, 2.0
    colours, largest = to_heat(maps)
    assert largest == 4.0
    brightness = colours.astype(int).sum(axis=-1)
    assert brightness[0, 0, 0] > brightness[1, 1, 1] > brightness[0, 1, 1]
    assert np.isfinite(to_heat(np.full((1, 2, 2), np.nan, np.float32))[1])


def test_every_pixel_is_where_it_belongs(pixels):
    other = 255 - pixels
    image = pics.grid({"input": pixels.astype(np.uint8), "output": other.astype(np.uint8)}, "header")
    height, width = 22 * 4, 22 * 6  # 22 is the smallest whole factor that brings the longer side to 128
    top = image.shape[0] - 3 * (height + pics.GAP)
    for column, expected in enumerate((pixels, other)):
        for row in range(3):
            y, x = top + row * (height + pics.GAP), pics.GAP + column * (width + pics.GAP)
            cell = image[y : y + height, x : x + width]
            np.testing.assert_array_equal(cell[11::22, 11::22], expected[row])


def test_large_images_are_reduced():
    image = pics.grid({"input": np.zeros((1, 640, 320, 3), np.uint8)})
    assert (image == 0).all(axis=-1).sum() >= 320 * 160
    assert image.shape[0] < 400


def test_header_says_what_was_used(monkeypatch):
    seen = []

    def grid(columns, header):
        seen.append((list(columns), header))
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(pics, "grid", grid)
    panels = {"input": jnp.zeros((1, 4, 4, 5)), "prediction": jnp.zeros((1, 4, 4, 5))}
    maps = {"error": jnp.full((1, 4, 4), 1.5)}
    for used in (True, False):
        pics.draw(Pictures(panels, maps, true_patch_statistics=used), (0.5,), (0.5,), "step 7")
    assert seen[0][0] == ["input", "prediction", "error (0 to 1.5)"]
    assert seen[0][1] == f"step 7; {pics.UNDONE}; first 3 of 5 channels shown"
    assert seen[1][1] == f"step 7; {pics.NOT_UNDONE}; first 3 of 5 channels shown"


def test_long_titles_are_broken_not_cut():
    name = "a prediction of the second and of the third layer"
    font = pics.ImageFont.load_default(pics.FONT)
    lines = pics._wrap(name, 128, font)
    assert " ".join(lines) == name and len(lines) > 1
    assert max(font.getlength(line) for line in lines) <= 128


def test_a_picture_is_written_whole_in_a_new_folder(tmp_path):
    image = np.random.default_rng(2).integers(256, size=(5, 7, 3), dtype=np.uint8)
    path = pics.save(image, tmp_path / "pictures" / "step_00000001.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_home_directory_is_left_alone(tmp_path, root):
    code = "from mim_jax.report.plots import Line, Panel, svg; svg(Panel('loss', (Line('training', [(1, 2.0)]),)))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MPLCONFIG", "XDG_"))}
    environment |= {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=root)
    assert not list(tmp_path.iterdir())
