"""Filtered noise: its spectrum, the windows, the masks; and banks on disk."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mim_jax.errors import ConfigError
from mim_jax.interop import noise_bank
from mim_jax.masking.colour_noise import NoiseConfig, blur_matrix, noise_mask, noise_windows


def radial_power(images, bins=8):
    """Mean power at rising frequencies, without the constant."""
    power = (np.abs(np.fft.fft2(images)) ** 2).mean(0)
    rows, columns = np.meshgrid(*(np.fft.fftfreq(images.shape[1]),) * 2, indexing="ij")
    radius = np.hypot(rows, columns)
    edges = np.linspace(0.5 / images.shape[1], 0.5, bins + 1)
    return np.array([power[(radius >= a) & (radius < b)].mean() for a, b in zip(edges, edges[1:], strict=False)])


def bank(colour, **more):
    return np.asarray(NoiseConfig.from_section(dict(colour=colour, count=64, size=32) | more).bank())


def test_spectra_have_the_colour_of_their_names():
    red, blue, green, purple = (radial_power(bank(colour)) for colour in ("red", "blue", "green", "purple"))
    assert (np.diff(red) < 0).all()
    assert (np.diff(blue[:4]) > 0).all() and blue[-1] > 5 * blue[0]
    assert 0 < green.argmax() < 7 and green.max() > 3 * max(green[0], green[-1])
    assert 0 < purple.argmin() < 7 and min(purple[0], purple[-1]) > 1.2 * purple.min()


def test_the_filter_is_a_gaussian_blur():
    noise = np.random.default_rng(0).normal(size=(64, 64))
    ours = blur_matrix(64, 2.0) @ noise @ blur_matrix(64, 2.0).T
    np.testing.assert_allclose(ours, ndimage.gaussian_filter(noise, 2.0, mode="wrap", truncate=8.0), atol=1e-5)


def test_values_fill_0_to_1_and_seeds_differ():
    made = bank("green")
    assert made.min((1, 2)).max() == 0 and abs(made.max((1, 2)) - 1).max() < 1e-6
    np.testing.assert_array_equal(made, bank("green"))
    assert not np.allclose(made, bank("green", seed=1))


def test_windows_are_cut_slice_by_slice():
    noise = np.random.default_rng(0).random((3, 9, 10)).astype(np.float32)
    corners, flips = np.array([[1, 2], [0, 4]]), np.array([[True, False], [False, True]])
    found = noise_windows(*map(jnp.asarray, (noise, corners, flips)), 5, (4, 5))
    for b in range(5):
        top, left = corners[b // 3]
        window = noise[b % 3, top : top + 4, left : left + 5]
        window = window[:, ::-1] if b < 3 else window[::-1]
        np.testing.assert_allclose(found[b], window / window.max(), rtol=1e-6)


def test_masks_keep_the_strongest_values():
    noise = NoiseConfig(count=5, size=20).bank()
    mask = jax.jit(lambda key: noise_mask(key, noise, 12, (7, 6), 10))(jax.random.key(0))
    assert (mask.hidden.sum(1) == 32).all() and mask.visible.shape == (12, 10)
    other = noise_mask(jax.random.key(1), noise, 12, (7, 6), 10)
    assert (mask.hidden != other.hidden).any() and (mask.hidden[0] != mask.hidden[1]).any()


def test_a_bank_on_disk_is_the_one_that_a_run_makes(tmp_path):
    config = NoiseConfig(colour="blue", count=4, size=16)
    path = noise_bank.make(config, tmp_path)
    np.testing.assert_allclose(noise_bank.load(path), config.bank(), atol=1e-6)
    before = path.stat().st_mtime_ns
    assert noise_bank.make(config, tmp_path) == path and path.stat().st_mtime_ns == before
    assert noise_bank.make(dataclasses.replace(config, seed=1), tmp_path) != path


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(color="red"), "method.noise.color is not a setting"),
        (dict(colour="pink"), "method.noise.colour 'pink' is not one of"),
        (dict(colour="red", sigmas=(1.0, 2.0)), "must be 1 positive deviation"),
        (dict(sigmas=(2.0, 1.0)), "the smaller one first"),
        (dict(count=0), "must be at least 1"),
    ],
)
def test_impossible_banks_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        NoiseConfig.from_section(settings)


def test_files_that_are_no_bank_are_refused(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ConfigError, match="is no array file"):
        noise_bank.load(tmp_path / "text.npy")
    np.save(tmp_path / "flat.npy", np.zeros((3, 4)))
    with pytest.raises(ConfigError, match="of shape \\(3, 4\\)"):
        noise_bank.load(tmp_path / "flat.npy")
