"""ConvMAE beyond the contract: the card's numbers, no look across the mask, layers, the reference case."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError, VerifyError
from mim_jax.interop.case import load_case
from mim_jax.interop.conv_vit_case import conv_vit_config
from mim_jax.interop.verify import verify
from mim_jax.masking.mask import mask_from_noise
from mim_jax.methods.convmae import ConvMAE
from mim_jax.models.conv_vit import ConvBlock, ConvVit
from mim_jax.models.conv_vit_config import ConvVitConfig, variant
from mim_jax.training.groups import flat, group_table

BATCH = {"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def whole():
    """The published network's method and shapes."""
    method = ConvMAE.from_config(variant("B"), {})
    return method, jax.eval_shape(method.init, jax.random.key(0), BATCH).params


def test_parameter_counts(whole):
    _, params = whole
    fusion = count({name: part for name, part in params["encoder"].items() if name.startswith("fuse")})
    assert count(params) == 114_790_528 and fusion == 4_326_912
    assert (count(params["encoder"]) - fusion, count(params["decoder"])) == (84_455_296, 26_008_320)


def test_layers_of_the_decay_span_fifteen_blocks(whole):
    method, params = whole
    groups = method.param_groups()
    number = {name: groups.layer(name) for name in flat(params)}
    assert groups.depth == 15
    assert number["encoder/embed_1/patch_embed/proj/kernel"] == number["encoder/embed/norm/scale"] == 0
    assert number["encoder/stage_0_block_1/depthwise/kernel"] == 2 and number["encoder/stage_1_block_0/fc1/bias"] == 3
    assert number["encoder/transformer/blocks_0/norm1/scale"] == 5
    assert number["encoder/transformer/blocks_10/norm1/scale"] == 15
    assert number["encoder/norm/scale"] == number["encoder/fuse_0/proj/kernel"] == 16
    assert not group_table(groups, params)["encoder/embed_0/norm/scale"].decay


def test_convolutions_do_not_look_across_the_mask():
    block, x = ConvBlock(2.0), jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    active = jax.random.bernoulli(jax.random.key(1), 0.4, (2, 4, 4))
    params = block.init(jax.random.key(2), x, active)
    fine = jnp.repeat(jnp.repeat(active, 2, 1), 2, 2)[..., None]
    run = jax.jit(lambda x: block.apply(params, x, active))
    moved = run(jnp.where(fine, x, 7.0))
    np.testing.assert_array_equal(jnp.where(fine, run(x), 0), jnp.where(fine, moved, 0))
    free = block.apply(params, jnp.where(fine, x, 7.0), None)
    assert not np.allclose(jnp.where(fine, free, 0), jnp.where(fine, moved, 0))


def test_several_masks_of_an_image_are_as_one_mask_each():
    config = ConvVitConfig((16, 24), 3, (6, 8), (1, 1), (2, 2), (2, 2, 1), 16, 2, 2)
    encoder, images = ConvVit(config, fuse=True), jax.random.normal(jax.random.key(0), (3, 16, 24, 3))
    mask = mask_from_noise(jax.random.uniform(jax.random.key(1), (6, config.tokens)), 5, config.grid)
    params = encoder.init(jax.random.key(2), images, mask.visible, mask.hidden)
    run = jax.jit(lambda images, visible, hidden: encoder.apply(params, images, visible, hidden)[0])
    both = run(images, mask.visible, mask.hidden)
    assert both.shape == (6, 5, 16)
    one = run(images, mask.visible[1::2], mask.hidden[1::2])
    np.testing.assert_allclose(both[1::2], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "model, sentence",
    [
        ({"strides": (4, 2)}, "model.stem_width .* must hold one number for each stage"),
        ({"image_size": 100}, "do not divide the image height of 100; the nearest height that works is 96"),
        ({"stem_depth": (0, 2)}, "stem_depth, strides and stem_mlp_ratio must be positive"),
        ({"heads": 7}, "model.heads 7 does not divide model.width 768"),
        ({"precision": "fp16"}, "model.precision 'fp16' is not one of"),
    ],
)
def test_bad_settings(model, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ConvMAE.from_config(model, {})


def test_reference_case(shared):
    report = verify(shared / "goldens" / "convmae" / "norm_pix_64px")
    assert not [(row.name, row.error, row.note) for row in report.rows if not row.ok]
    assert report.worst < 2e-6


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"depth": [1, 2]}, r"config.depth \[1, 2\] must hold a number for each of three stages"),
        ({"drop_path": 0.1}, "has no drop path"),
        ({"img_size": 32}, r"images of \(64, 64\) pixels, but img_size \(32, 32\)"),
    ],
)
def test_settings_that_a_case_cannot_have(shared, change, sentence):
    case = load_case(shared / "goldens" / "convmae" / "norm_pix_64px")
    case.config._values.update(change)
    with pytest.raises(VerifyError, match=sentence):
        conv_vit_config(case)
