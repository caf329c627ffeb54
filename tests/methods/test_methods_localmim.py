"""LocalMIM: sizes, masks at four scales, the constant offset of the gradients, and settings that are refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop.verify import verify
from mim_jax.losses.masked import weighted_mean
from mim_jax.masking.mask import mask_from_hidden
from mim_jax.masking.scales import hidden_share
from mim_jax.methods.localmim import DOUBLINGS, LocalMIM
from mim_jax.models.vit_config import variant
from mim_jax.targets.hog import gradients, hog


def sizes(method):
    height, width = method.model.image_size
    batch = {"image": jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)}
    return jax.eval_shape(method.init, jax.random.key(0), batch)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_reference_cases(shared):
    for folder in sorted((shared / "goldens" / "localmim").glob("*/case.json")):
        report = verify(folder.parent)
        assert report.ok and report.worst < 2e-6, [row for row in report.rows if not row.ok]


@pytest.mark.parametrize(
    ("name", "section", "encoder", "decoders"),
    [
        ("B/16", {}, 85_651_968, 4_264_172),
        ("L/16", {"hog_bins": 18, "hog_bias": True}, 303_106_048, 4_545_432),
    ],
)
def test_parameter_counts(name, section, encoder, decoders):
    variables = sizes(LocalMIM.from_config(variant(name), section))
    params = dict(variables.params)
    assert count(params.pop("encoder")) + count(params.pop("norms")) == encoder
    assert count(params) == decoders
    assert count(variables.frozen) == (8 if section else 0)


def test_shares_of_cells_against_numpy():
    row = np.arange(24) < 15
    hidden = np.stack([np.random.default_rng(n).permutation(row) for n in range(3)])
    mask = mask_from_hidden(jnp.asarray(hidden), 15, (4, 6))
    grid = hidden.reshape(3, 4, 6).astype(np.float32)
    for doublings in DOUBLINGS:
        expected = grid.reshape(3, 2, 2, 3, 2).mean((2, 4)) if doublings < 0 else None
        if expected is None:
            expected = grid.repeat(2**doublings, 1).repeat(2**doublings, 2)
        found = hidden_share(mask, doublings)
        np.testing.assert_array_equal(found, expected.reshape(3, -1))
        counts = np.asarray(found.sum(1)) / 4.0**doublings
        np.testing.assert_allclose(counts, hidden.sum(1), rtol=1e-6)  # every scale counts in proportion


def test_weighted_mean_ignores_what_has_no_weight():
    error, weights = jnp.asarray([[1.0, jnp.inf, 3.0]]), jnp.asarray([[0.25, 0.0, 0.75]])
    assert float(weighted_mean(error, weights)) == pytest.approx(2.5)
    assert float(weighted_mean(error, jnp.zeros((1, 3)))) == 0.0


def test_the_offset_is_added_to_every_gradient():
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 2))
    offset = jnp.asarray([0.3, -0.2])
    across, down = (np.asarray(g, np.float64) + float(o) for g, o in zip(gradients(images), offset, strict=True))
    bins = np.floor(np.arctan2(across, down) / np.pi * 9).astype(int) % 9
    votes = np.zeros((2, 2, 2, 9))
    for r, c, k in np.ndindex(8, 8, 2):
        votes[r // 4, c // 4, k, bins[0, r, c, k]] += np.hypot(across, down)[0, r, c, k]
    votes /= np.linalg.norm(votes, axis=-1, keepdims=True)
    np.testing.assert_allclose(hog(images, 4, 9, offset=offset)[0], votes, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "section", "sentence"),
    [
        ({}, {"taps": (0, 1)}, "method.taps"),
        ({}, {"taps": (0, 0, 1, 2)}, "method.taps"),
        ({"patch_size": 2}, {}, "multiples of 4"),
        ({"image_size": 12}, {}, "even"),
        ({}, {"hog_bins": 0}, "method.hog_bins 0"),
    ],
)
def test_what_cannot_be_is_refused(model, section, sentence):
    sizes = dict(image_size=16, patch_size=4, width=16, depth=2, heads=2) | model
    with pytest.raises(ConfigError, match=sentence):
        LocalMIM.from_config(sizes, dict(taps=(0, 0, 1, 1), decoder_width=8, decoder_heads=2) | section)
