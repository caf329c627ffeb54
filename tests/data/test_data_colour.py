"""Jitter, grayscale, blur and solarisation, against Pillow, colorsys, SciPy and closed forms."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter1d
from scipy.stats import chisquare, kstest

from mim_jax.data.effects import Effects, blur, grayscale, solarize
from mim_jax.data.jitter import Change, Jitter, shift_hue

U16 = np.uint16


class Draws(np.random.Generator):
    """Hands out chosen numbers as a generator would."""

    def __init__(self, *arrays):
        super().__init__(np.random.Philox())
        self._arrays = iter(arrays)

    def random(self, count=None):
        array = np.array(next(self._arrays))
        assert array.shape == (() if count is None else (count,))
        return array if count else float(array)


def many(settings, count=4000):
    rng = np.random.default_rng(0)
    return [settings.draw(rng) for _ in range(count)]


def test_jitter_order_and_factors(photo):
    image = photo(4)
    drawn = Draws([0.9, 0.1, 0.5], [0.75, 0.25, 1.0])  # contrast, saturation, brightness; 1.2, 0.8, 1.4 of strength 0.4
    expected = Image.fromarray(image)
    for kind, factor in ((ImageEnhance.Contrast, 0.8), (ImageEnhance.Color, 1.4), (ImageEnhance.Brightness, 1.2)):
        expected = kind(expected).enhance(factor)
    change = Jitter(0.4, 0.4).draw(drawn)
    np.testing.assert_array_equal(change(image), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(change(Image.fromarray(image))), np.asarray(expected))


def test_jitter_amounts_are_uniform_and_orders_fair():
    changes = many(Jitter(0.4, 0.2, 0.1))
    brightness, contrast, saturation, hue = np.array([c.amounts for c in changes]).T
    for found, low, width in ((brightness, 0.6, 0.8), (contrast, 0.6, 0.8), (saturation, 0.8, 0.4), (hue, -0.1, 0.2)):
        assert kstest(found, "uniform", (low, width)).pvalue > 1e-3
    assert np.abs(np.corrcoef([brightness, contrast, saturation, hue]) - np.eye(4)).max() < 0.05
    orders, counts = np.unique([c.order for c in changes], axis=0, return_counts=True)
    assert len(orders) == 24
    assert chisquare(counts).pvalue > 1e-3


def test_jitter_happens_as_often_as_asked():
    assert np.mean([c is not None for c in many(Jitter(0.4, 0.4, probability=0.8))]) == pytest.approx(0.8, abs=0.02)
    assert many(Jitter(probability=0.8), 20) == [None] * 20
    assert many(Jitter(0.4, probability=0.0), 20) == [None] * 20
    assert all(c.amounts[:2] == (1.0, 1.0) and len(c.amounts) == 3 for c in many(Jitter(saturation=0.3), 20))


def test_nothing_is_drawn_for_what_is_off():
    assert Jitter().draw(Draws()) is None
    image = np.zeros((2, 2, 3), np.uint8)
    assert Effects()(image, Draws()) is image
    assert len(Jitter(0.4, 0.4).draw(Draws([0.1, 0.2, 0.3], [0.5] * 3)).order) == 3


def test_jitter_of_wide_images_equals_that_of_narrow_ones(photo):
    image = photo(5)
    for i in range(5):
        change = Jitter(0.4, 0.4).draw(np.random.default_rng(i))
        narrow = change(image).astype(int)
        wide = change(image.astype(U16) * U16(257)) / 257
        floats = change((image / 255).astype(np.float32)) * 255
        assert np.abs(narrow - wide).max() < 6  # Pillow truncates after each of the three
        assert np.abs(wide - floats).max() < 0.1


def test_jitter_leaves_alpha_and_extra_channels_sane(photo):
    rgba = np.dstack([photo(6), np.full((20, 24), 77, np.uint8)])
    change = Jitter(0.9, 0.9, 0.5).draw(np.random.default_rng(0))
    assert (change(rgba)[..., 3] == 77).all()
    assert (change(rgba)[..., :3] != rgba[..., :3]).any()
    five = np.random.default_rng(0).integers(0, 65536, (4, 4, 6), dtype=U16)
    assert change(five).dtype == U16


@pytest.mark.parametrize("shift", [0.1, -0.2, 0.5, -0.003])
def test_hue_in_pillow_moves_the_hue_byte(photo, shift):
    image = photo(7)
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.array(int(shift * 255)).astype(np.uint8)  # wraps around
    expected = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    change = Change((3,), (1.0, 1.0, 1.0, shift))
    np.testing.assert_array_equal(change(image), expected)
    np.testing.assert_array_equal(np.asarray(change(Image.fromarray(image))), expected)


@pytest.mark.parametrize("shift", [0.1, -0.2, 0.5])
def test_hue_in_float_equals_colorsys(photo, shift):
    image = (photo(8) / 255).astype(np.float32)
    image[0, :3] = [[0.5, 0.5, 0.5], [0, 0, 0], [1, 1, 1]]
    expected = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[place].tolist())
        expected[place] = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
    np.testing.assert_allclose(shift_hue(image, shift), expected, atol=1e-5)
    wide = Change((3,), (1.0, 1.0, 1.0, shift))(np.round(image * 65535).astype(U16))
    np.testing.assert_allclose(wide / 65535, expected, atol=1e-4)


def test_hue_leaves_grey_and_other_channels_alone(photo):
    change = Change((3,), (1.0, 1.0, 1.0, 0.3))
    for channels in (1, 2, 6):
        for dtype in (np.uint8, U16):
            image = np.random.default_rng(0).integers(0, 255, (4, 5, channels)).astype(dtype)
            np.testing.assert_array_equal(change(image), image)


def test_grayscale_equals_pillow(photo):
    expected = np.asarray(Image.fromarray(photo(0)).convert("L").convert("RGB"))
    np.testing.assert_array_equal(grayscale(photo(0)), expected)
    rgba = np.dstack([photo(0), np.full((20, 24), 77, np.uint8)])
    np.testing.assert_array_equal(grayscale(rgba), np.dstack([expected, rgba[..., 3]]))
    grey = photo(0)[..., :1]
    assert grayscale(grey) is grey


def test_solarize_equals_pillow(photo):
    expected = np.asarray(ImageOps.solarize(Image.fromarray(photo(1)), 128))
    np.testing.assert_array_equal(solarize(photo(1)), expected)
    wide = np.array([[[0], [32767], [32768], [65535]]], U16)
    np.testing.assert_array_equal(solarize(wide).ravel(), [0, 32767, 32767, 0])
    floats = np.array([[[0.0], [0.25], [0.5], [1.0]]], np.float32)
    np.testing.assert_array_equal(solarize(floats).ravel(), np.array([0, 0.25, 0.5, 0], np.float32))
    assert (solarize(np.full((2, 2, 4), 200, np.uint8))[..., 3] == 200).all()


@pytest.mark.parametrize("radius", [0.1, 0.7, 2.0])
def test_blur_equals_pillow(photo, radius):
    image = photo(2, 40, 50)
    expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    np.testing.assert_array_equal(blur(image, radius), expected)
    np.testing.assert_array_equal(blur(image[:, ::-1], radius)[..., 0], blur(image[:, ::-1, :1].copy(), radius)[..., 0])


@pytest.mark.parametrize("radius", [0.0, 0.1, 0.7, 1.3, 2.0])
def test_blur_of_other_types_is_nearly_gaussian(photo, radius):
    image = (np.dstack([photo(2, 40, 50), photo(3, 40, 50)]) / 255).astype(np.float32)
    result = blur(image, radius)
    assert (result.dtype, result.shape) == (np.float32, image.shape)
    expected = image.astype(float)
    for axis in (0, 1):
        expected = gaussian_filter1d(expected, radius, axis, mode="nearest") if radius else expected
    np.testing.assert_allclose(result, expected, atol=0.01)
    narrow = blur(photo(2, 40, 50), radius) / 255
    np.testing.assert_allclose(result[..., :3], narrow, atol=0.012)  # Pillow rounds after every box
    wide = blur(np.round(image * 65535).astype(U16), radius)
    np.testing.assert_allclose(wide / 65535, result, atol=1e-4)


def test_effects_in_order_and_as_often_as_asked(photo):
    image = photo(3)
    result = Effects(1.0, 1.0, (0.5, 1.5), 1.0)(image, Draws(0.1, 0.2, 0.25, 0.3))
    np.testing.assert_array_equal(result, solarize(blur(grayscale(image), 0.75)))

    effects, rng = Effects(0.2, 0.5, (3.0, 3.0), 0.3), np.random.default_rng(0)
    coloured = np.zeros((9, 9, 3), np.uint8)
    coloured[4, 4] = (200, 200, 10)
    found = [effects(coloured, rng).astype(int) for _ in range(3000)]
    grey = np.mean([(r[..., 0] == r[..., 2]).all() for r in found])
    blurred = np.mean([r[3, 4, 0] > 0 for r in found])
    assert blurred == pytest.approx(0.5, abs=0.03)
    assert grey == pytest.approx(0.2, abs=0.03)
    bright = [r for r in found if r[3, 4, 0] == 0]  # sharp, so the bright pixel shows whether it was inverted
    assert np.mean([r[4, 4, 0] < 128 for r in bright]) == pytest.approx(0.3, abs=0.04)


def test_blur_radius_is_uniform(photo, monkeypatch):
    seen = []
    monkeypatch.setattr("mim_jax.data.effects.blur", lambda image, radius: seen.append(radius) or image)
    effects, rng = Effects(blur=0.5), np.random.default_rng(0)
    for _ in range(2000):
        effects(photo(0), rng)
    assert kstest(seen, "uniform", (0.1, 1.9)).pvalue > 1e-3


def test_exactly_one_effect_by_shares(photo):
    """DeiT III's choice: one of three, as often as its share says."""
    image, counts = np.asarray(photo(0)), {"grayscale": 0, "solarize": 0, "other": 0}
    effects, rng = Effects(grayscale=0.5, solarize=0.5, one=True), np.random.default_rng(0)
    for _ in range(200):
        made = effects(image, rng)
        kinds = {"grayscale": grayscale(image), "solarize": solarize(image)}
        counts[next((name for name, each in kinds.items() if np.array_equal(each, made)), "other")] += 1
    assert counts["other"] == 0 and 60 < counts["grayscale"] < 140
