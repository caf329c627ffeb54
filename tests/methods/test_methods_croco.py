"""CroCo beyond the contract: the card's numbers, the second view, rotary positions, pairs of views, reference cases."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mim_jax.data.sources import open_source
from mim_jax.data.views import View
from mim_jax.errors import ConfigError, DataError
from mim_jax.interop.verify import verify
from mim_jax.methods.base import Progress
from mim_jax.methods.croco import CroCo
from mim_jax.models.croco_decoder import CrocoDecoder
from mim_jax.models.vit_config import variant
from mim_jax.nn.block import StackConfig
from mim_jax.nn.rotary import rotary_table, rotate

BASE = dict(decoder_width=768, decoder_depth=12, decoder_heads=12)
ROPE = dict(positions="none", rope_base=100.0)
COUNTS = {"B/16": ((120_076_288, {}), (200_269_824, BASE)), "L/16": ((417_918_720, BASE),)}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("positions", [{}, ROPE])
def test_parameter_counts(name, positions):
    for count, decoder in COUNTS[name]:
        method = CroCo.from_config(variant(name, cls_token=False, **positions), decoder)
        batch = {"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)}
        params = jax.eval_shape(method.init, jax.random.key(0), batch).params
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
        assert method.seen == 20


def run(method, batch):
    params = jax.jit(method.init)(jax.random.key(0), batch).params
    return jax.jit(lambda b: method.loss(params, {}, {}, b, jax.random.key(1), Progress.last())[1].trace)(batch)


def test_visible_patches_are_in_raster_order_and_the_other_view_counts():
    method = CroCo.tiny((24, 24))
    batch = {name: jax.random.normal(jax.random.key(i), (2, 24, 24, 3)) for i, name in enumerate(("image", "image2"))}
    trace = run(method, batch)
    visible = np.asarray(trace["mask"].visible)
    assert visible.shape == (2, 4) and (np.diff(visible, axis=1) > 0).all()  # int(0.9 * 36) = 32 hidden
    other = run(method, batch | {"image2": batch["image"]})
    assert not np.allclose(trace["pred"], other["pred"]) and np.array_equal(trace["latent"], other["latent"])


def test_the_other_view_has_positions():
    stack = StackConfig(depth=2, heads=2)
    decoder, mask = CrocoDecoder(8, stack, 3), CroCo.tiny().mask(jax.random.key(0), 2)
    latent = jax.random.normal(jax.random.key(1), (2, mask.visible.shape[1], 8))
    other = jax.random.normal(jax.random.key(2), (2, 16, 8))
    params = decoder.init(jax.random.key(3), latent, other, mask)
    apply = jax.jit(lambda other: decoder.apply(params, latent, other, mask))
    # The table of positions is added to the other view, so a permutation shows.
    assert not np.allclose(apply(other), apply(other[:, ::-1]), atol=1e-5)


def test_rotary_products_depend_on_the_distance_alone():
    table = jnp.asarray(rotary_table((6, 8), 8, base=100.0)).reshape(2, 6, 8, 8)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def product(a, b):
        turned = [rotate(x, table[:, None, None, row, column]) for x, (row, column) in ((q, a), (k, b))]
        return float(jnp.sum(turned[0] * turned[1]))

    np.testing.assert_allclose(product((1, 2), (3, 5)), product((2, 4), (4, 7)), rtol=1e-4, atol=1e-5)
    assert abs(product((1, 2), (3, 5)) - product((1, 2), (3, 6))) > 1e-3


def test_positions_are_whole_numbers_on_every_grid():
    small, large = rotary_table((2, 3), 8, base=100.0), rotary_table((4, 5), 8, base=100.0)
    np.testing.assert_allclose(large.reshape(2, 4, 5, 8)[:, :2, :3], small.reshape(2, 2, 3, 8), atol=1e-6)
    angle = np.arccos(small.reshape(2, 2, 3, 8)[0, 1, 0])
    np.testing.assert_allclose(angle[:4], [1, 1, 0.1, 0.1], atol=1e-5)  # 100^(-2j/4), down; across stands still
    np.testing.assert_allclose(angle[4:], 0, atol=1e-6)


@pytest.mark.parametrize(
    "model, settings, sentence",
    [
        ({"cls_token": True}, {}, "croco has model.cls_token False"),
        ({"rope_base": 100.0}, {}, "or 'none' with it"),
        (ROPE | {"rope": 14}, {}, "stands in place of model.rope 14"),
        (ROPE, {"decoder_width": 96}, "method.decoder_width 96 over method.decoder_heads 16"),
        ({}, {"mask_ratio": 0.001}, "method.mask_ratio 0.001"),
    ],
)
def test_bad_settings(model, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        CroCo.from_config(model, settings)


@pytest.fixture
def pairs(tmp_path):
    """Two scenes; the second view of each is darker than the first."""
    random = np.random.default_rng(0)
    for name in ("a/x", "y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        for view, high in ((1, 255), (2, 60)):
            pixels = random.integers(high // 2, high, (20, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}_{view}.png")
    return tmp_path


def test_pairs_are_read_and_taken_apart(pairs):
    source = open_source(f"scenes:{pairs}")
    assert len(source) == 2 and source.name(0) == "a/x" and not source.labelled
    picture = source[1]["image"]
    assert picture.shape == (40, 24, 3)
    rng = np.random.default_rng(3)
    upper = View("image", (16, 16), crop="random_upper", flip=0.0)(picture, rng)
    lower = View("image2", (16, 16), crop="random_lower", flip=0.0)(picture, rng)
    assert upper.shape == lower.shape == (16, 16, 3)
    assert upper.min() > 100 and lower.max() < 60
    rows = [picture[r : r + 16, c : c + 16] for r in range(5) for c in range(9)]
    assert any(np.array_equal(upper, part) for part in rows)  # cropped, not resized


def test_pairs_that_are_none_are_named(pairs):
    (pairs / "y_2.png").unlink()
    with pytest.raises(DataError, match="'y_1.png' has no second view"):
        open_source(f"scenes:{pairs}")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(pairs / "y_2.png")
    with pytest.raises(DataError, match="has views of 24 x 20 and 4 x 4 pixels"):
        open_source(f"scenes:{pairs}")[1]
    with pytest.raises(DataError, match="holds no images called NAME_1"):
        (pairs / "empty").mkdir()
        open_source(f"scenes:{pairs / 'empty'}")


@pytest.mark.parametrize("name", ["v1_cosine", "v2_rope"])
def test_reference_cases(shared, name):
    report = verify(shared / "goldens" / "croco" / name)
    assert not [(row.name, row.error, row.note) for row in report.rows if not row.ok]
    assert report.worst < 2e-6
