"""Crops, resizing and flips, against closed forms, Pillow and the reference cases."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy.stats import kstest

from mim_jax.data import crops
from mim_jax.data.decode import decode, pixels
from mim_jax.data.resize import FILTERS, resize
from mim_jax.data.views import View

U8 = np.dtype(np.uint8)
BICUBIC = Image.Resampling.BICUBIC


def boxes(count, height, width, scale, ratio, sampler=crops.random_resized_box):
    rng = np.random.default_rng(0)
    return np.array([sampler(rng, height, width, scale, ratio) for _ in range(count)])


def test_random_resized_box_area_and_shape_are_uniform():
    top, left, h, w = boxes(4000, 2000, 3000, (0.08, 0.5), (3 / 4, 4 / 3)).T
    area = h * w / (2000 * 3000)
    shape = np.log(w / h)
    assert kstest(area, "uniform", (0.08, 0.42)).pvalue > 1e-3
    assert kstest(shape, "uniform", (math.log(3 / 4), 2 * math.log(4 / 3))).pvalue > 1e-3
    assert kstest((top + 0.5) / (2000 - h + 1), "uniform").pvalue > 1e-3
    assert kstest((left + 0.5) / (3000 - w + 1), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(area, shape)[0, 1]) < 0.05


def test_random_resized_box_reaches_every_place():
    places = {tuple(b[:2]) for b in boxes(400, 5, 5, (0.36, 0.36), (1.0, 1.0))}
    assert places == set(itertools.product(range(3), range(3)))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10)), (100, 100, (8, 0, 83, 100))],
)
def test_random_resized_box_falls_back_to_the_centre(height, width, expected):
    # No square-like box holds nine tenths of a strip, and no wide one all of a square.
    scale, ratio = ((0.9, 1.0), (3 / 4, 4 / 3)) if height != width else ((1.0, 1.0), (1.2, 4 / 3))
    assert {tuple(b) for b in boxes(20, height, width, scale, ratio)} == {expected}


def test_ten_tries_are_made():
    # One try fits with probability p; the fallback (here the whole image) should come with (1 - p)^10.
    scale, ratio = (0.81, 1.0), (0.5, 2.0)
    fits = np.mean([b[2] < 100 or b[3] < 100 for b in boxes(4000, 100, 100, scale, ratio)])
    rng = np.random.default_rng(1)
    area, shape = rng.uniform(0.81, 1, 200_000), np.exp(rng.uniform(math.log(0.5), math.log(2), 200_000))
    p = np.mean((np.round(100 * np.sqrt(area * shape)) <= 100) & (np.round(100 * np.sqrt(area / shape)) <= 100))
    assert fits == pytest.approx(1 - (1 - p) ** 10, abs=0.03)


def test_clipped_box_never_tries_again():
    _, _, h, w = boxes(4000, 100, 100, (0.9, 1.0), (0.25, 4.0), crops.clipped_box).T
    assert (np.maximum(h, w) <= 100).all()
    rng = np.random.default_rng(1)
    area, shape = rng.uniform(0.9, 1, 200_000), np.exp(rng.uniform(math.log(0.25), math.log(4), 200_000))
    expected = np.minimum(np.round(100 * np.sqrt(area * shape)), 100).mean()
    assert w.mean() == pytest.approx(expected, rel=0.02)
    assert h.mean() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("interpolation", list(FILTERS))
def test_resize_equals_pillow_on_the_cut_part(photo, interpolation):
    image, box = photo(0, 40, 50), (3, 5, 30, 22)
    expected = np.asarray(Image.fromarray(image[3:33, 5:27]).resize((12, 10), FILTERS[interpolation]))
    np.testing.assert_array_equal(resize(image, (10, 12), interpolation, box), expected)
    np.testing.assert_array_equal(resize(Image.fromarray(image), (10, 12), interpolation, box), expected)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_channels_are_resized_each_by_itself(channels):
    image = np.random.default_rng(0).integers(0, 256, (30, 20, channels), dtype=np.uint8)
    result = resize(image, (11, 9))
    for c in range(channels):
        expected = np.asarray(Image.fromarray(image[..., c]).resize((9, 11), BICUBIC))
        np.testing.assert_array_equal(result[..., c], expected)


def test_wide_types_are_resized_without_loss():
    image = np.random.default_rng(0).random((30, 20, 5), dtype=np.float32)
    expected = np.stack([np.asarray(Image.fromarray(image[..., c]).resize((9, 11), BICUBIC)) for c in range(5)], -1)
    np.testing.assert_array_equal(resize(image, (11, 9)), expected)
    wide = np.round(image * 65535).astype(np.uint16)
    assert np.abs(resize(wide, (11, 9)) - np.clip(expected, 0, 1) * 65535).max() < 1.5
    hard = np.zeros((8, 8, 1), np.uint16)
    hard[:, 4:] = 65535  # bicubic overshoots at an edge: clipped, not wrapped around
    enlarged = resize(hard, (32, 32))[..., 0]
    assert enlarged[:, 12].max() == 0
    assert enlarged[:, 19].min() == 65535


def test_evaluation_transform_equals_torchvision(shared):
    folder = shared / "goldens" / "eval_transform"
    outputs = np.load(folder / "outputs.npz")
    images = json.loads((folder / "case.json").read_text())["images"]
    compared = 0
    for key in outputs.files:
        if key.endswith("_normalised"):
            continue
        name = next(n for n in images if key.startswith(n))
        side = 448 if key.endswith("_448") else 256
        size = outputs[key].shape[:2]
        interpolation = "bilinear" if "bilinear" in key else "bicubic"
        view = View("image", size, interpolation=interpolation, shorter_side=side).at_evaluation()
        picture = decode((folder / images[name]["file"]).read_bytes(), channels=3, dtype=U8)
        difference = np.abs(view(picture, view.draws(0, 0, 0)).astype(int) - outputs[key])
        assert (difference <= 1).mean() >= 0.999, key
        from_array = view(pixels(picture), view.draws(0, 0, 0))
        np.testing.assert_array_equal(from_array, view(picture, view.draws(0, 0, 0)))
        compared += 1
    assert compared == 9


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(419, 700, (256, 427)), (530, 220, (616, 256)), (9, 9, (256, 256))]
)
def test_shorter_side(height, width, expected):
    assert crops.shorter_side_size(height, width, 256) == expected


def test_center_crop_pads_what_is_too_small():
    image = np.ones((2, 6, 1), np.uint8)
    result = crops.center_crop(image, (5, 4))[..., 0]
    np.testing.assert_array_equal(result, np.array([[0], [1], [1], [0], [0]]) * np.ones((1, 4)))


def test_random_crop_moves_a_padded_image():
    image = (np.arange(256, dtype=np.uint8).reshape(16, 16, 1)) | 1  # no zeros inside
    view = View("image", (16, 16), crop="random", flip=0.0)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    starts, found = list(itertools.product(range(5), range(5))), set()
    for i in range(300):
        result = view(image, view.draws(0, 0, i))
        places = [p for p in starts if np.array_equal(result, padded[p[0] : p[0] + 16, p[1] : p[1] + 16])]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 25


def test_rectangular_views_of_any_shape(photo):
    for crop in ("random_resized", "random_resized_clipped", "random", "center"):
        view = View("image", (6, 14), crop=crop, shorter_side=14)
        for height, width in ((3, 40), (40, 3), (6, 14), (1, 1)):
            assert view(photo(1, height, width), view.draws(0, 0, 1)).shape == (6, 14, 3)


def test_flip_happens_as_often_as_asked(photo):
    view = View("image", (20, 24), crop="center", flip=0.3, shorter_side=20)
    image = photo(2)
    results = [view(image, view.draws(0, 0, i)) for i in range(1000)]
    flipped = [np.array_equal(r, image[:, ::-1]) for r in results]
    assert all(f or np.array_equal(r, image) for f, r in zip(flipped, results, strict=True))
    assert np.mean(flipped) == pytest.approx(0.3, abs=0.05)


def test_views_of_one_record_differ_by_name(photo):
    a, b = View("a", (8, 8)), View("b", (8, 8))
    image = photo(3, 60, 60)
    assert not np.array_equal(a(image, a.draws(0, 0, 0)), b(image, b.draws(0, 0, 0)))
    np.testing.assert_array_equal(a(image, a.draws(0, 0, 0)), a(image, a.draws(0, 0, 0)))
