"""DMJD beyond the contract: the card's numbers, the two masks, the target against numpy, reference cases."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop.verify import verify
from mim_jax.masking.disjoint import cell_patches, disjoint_counts, disjoint_mask
from mim_jax.methods.base import Progress
from mim_jax.methods.dmjd import DMJD
from mim_jax.models.conv_vit_config import variant
from mim_jax.targets.hog import glyphs
from mim_jax.targets.hog_standardized import as_glyph_values, cell_histograms, standardized_hog

COUNTS = {"B": (92_195_200, 42_463_340, 976_492), "L": (331_190_912, 42_594_412, 1_107_564)}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    method = DMJD.from_config(variant(name, stem_mlp_ratio=(8.0, 8.0)), {})
    batch = {"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)}
    params = jax.eval_shape(method.init, jax.random.key(0), batch).params
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert tuple(count(params[part]) for part in ("encoder", "decoder", "projector")) == COUNTS[name]
    assert (method.outputs, method.seen) == (108, 76)


@pytest.mark.parametrize("masking, side", [("block", 2), ("random", 1)])
@pytest.mark.parametrize("ratio, covered", [(0.6, 1.0), (0.4, 1.0), (0.75, 0.9), (0.5, 0.5)])
def test_views_hide_what_the_other_shows(masking, side, ratio, covered):
    grid = (6, 8)
    cells, visible, extra = disjoint_counts(grid, masking, ratio, covered)
    mask = jax.jit(lambda key: disjoint_mask(key, 5, grid, masking, ratio, covered))(jax.random.key(0))
    hidden = np.asarray(mask.hidden)
    assert hidden.shape == (5, 2, 48) and mask.visible.shape == (5, 2, visible * side**2)
    assert (hidden.sum(-1) == (cells - visible) * side**2).all()
    assert ((hidden[:, 1] & ~hidden[:, 0]).sum(-1) == extra * side**2).all()
    for rows, value in ((mask.visible, False), (mask.masked, True)):
        assert (np.take_along_axis(hidden, np.asarray(rows), -1) == value).all()
    by_cell = hidden.reshape(5, 2, 6 // side, side, 8 // side, side)
    assert (by_cell == by_cell[:, :, :, :1, :, :1]).all()
    assert (hidden[0, 0] != hidden[1, 0]).any()


def test_published_counts():
    assert disjoint_counts((14, 14), "block", 0.6, 1.0) == (49, 19, 19)
    assert disjoint_counts((14, 14), "random", 0.6, 1.0) == (196, 78, 78)


def test_corners_of_cells():
    np.testing.assert_array_equal(cell_patches(jnp.asarray([3, 0]), (4, 6), 2), [12, 0, 13, 1, 18, 6, 19, 7])


def plain_histograms(image, cell):
    """One channel, pixel by pixel."""
    rows, columns = image.shape
    found = np.zeros((rows // cell, columns // cell, 9))
    for r in range(rows):
        for c in range(columns):
            down = image[r + 1, c] - image[r - 1, c] if 0 < r < rows - 1 else 0.0
            across = image[r, c + 1] - image[r, c - 1] if 0 < c < columns - 1 else 0.0
            angle = np.degrees(np.arctan2(down, across)) % 180
            found[r // cell, c // cell, int(angle // 20)] += np.hypot(down, across) / cell**2
    return found


def test_histograms_against_numpy():
    image = np.random.default_rng(0).integers(0, 256, (16, 24)).astype(np.float32)
    image[:8, :8] = np.arange(8) * 3  # gradients of exactly 0 degrees
    image[8:, :8] = 100 - np.arange(8) * 3  # and of 180
    found = cell_histograms(jnp.asarray(image)[None, :, :, None], 8)[0, :, :, 0]
    np.testing.assert_allclose(found, plain_histograms(image, 8), rtol=1e-5, atol=1e-4)


def test_order_of_the_target_and_its_glyphs():
    pixels = jax.random.uniform(jax.random.key(0), (2, 16, 32, 3))
    target = standardized_hog(pixels, (16, 16), 8)
    cells = cell_histograms(jnp.round(pixels * 255), 8)
    cell = cells[1, 1, 2, 1]  # lower left cell of the right patch, channel 1
    expected = (cell - cell.mean()) / jnp.sqrt(cell.var() + 1e-5)
    np.testing.assert_allclose(target[1, 1].reshape(2, 2, 9, 3)[1, 0, :, 1], expected, rtol=1e-4, atol=1e-5)
    # Rows of equal pixels have gradients down alone, whose edges lie across: a glyph of one horizontal line.
    stripes = jnp.broadcast_to(jnp.repeat(jnp.asarray([0.0, 0.1, 0.4, 1.0]), 2)[None, :, None, None], (1, 8, 8, 1))
    drawn = glyphs(as_glyph_values(standardized_hog(stripes, (8, 8), 8), (1, 1), 1), (1, 1), (1, 1), 1)[0]
    assert drawn[7:9].mean() > 3 * drawn[:, 7:9].mean()


def small(**settings):
    method = DMJD.from_config(
        dict(image_size=32, stem_width=(4, 6), stem_depth=(1, 1), strides=(2, 2, 1), width=8, depth=1, heads=2),
        dict(decoder_width=8, decoder_depth=1, decoder_heads=2, hog_cell=4) | settings,
    )
    batch = {name: jax.random.uniform(jax.random.key(3), shape.array(2)) for name, shape in method.views().items()}
    return method, batch


def test_visible_order_and_weight():
    method, batch = small()
    params = jax.jit(method.init)(jax.random.key(0), batch).params
    losses = {}
    for order in ("raster", "aligned"):
        other, _ = small(visible_order=order, visible_weight=0.5)
        _, out = jax.jit(other.loss)(params, {}, {}, batch, jax.random.key(1), Progress.last())
        losses[order] = {name: float(value) for name, value in out.terms.items()}
    _, out = jax.jit(method.loss)(params, {}, {}, batch, jax.random.key(1), Progress.last())
    assert losses["raster"]["masked"] == losses["aligned"]["masked"]
    assert losses["raster"]["visible"] != losses["aligned"]["visible"]
    np.testing.assert_allclose(losses["raster"]["visible"], 0.5 * float(out.terms["visible"]), rtol=1e-6)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"hog_cell": 3}, "method.hog_cell 3 does not divide the patches"),
        ({"masking": "blocks"}, "method.masking 'blocks' is not one of"),
        ({"prediction_ratio": 0.5}, "method.prediction_ratio 0.5 must be between method.mask_ratio 0.6 and 1"),
        ({"visible_order": "sorted"}, "method.visible_order 'sorted' is not one of"),
    ],
)
def test_bad_settings(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        small(**settings)


def test_odd_grids_have_no_cells():
    with pytest.raises(ConfigError, match="hides cells of 2 x 2 patches, unlike the grid"):
        DMJD.from_config({"image_size": (80, 64)}, {})


@pytest.mark.parametrize("name", ["block_masks", "hog"])
def test_reference_cases(shared, name):
    report = verify(shared / "goldens" / "dmjd" / name)
    assert not [(row.name, row.error, row.note) for row in report.rows if not row.ok]
    assert report.worst < 3e-6
