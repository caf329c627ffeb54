"""ConvMAE beyond the contract: the card's numbers, no look across the mask, layers, the reference case."""

from __future__ import annotations

import dataclasses

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
from mim_jax.methods.finetune import Finetune
from mim_jax.models.conv_vit import ConvBlock, ConvVit
from mim_jax.models.conv_vit_config import ConvVitConfig, variant
from mim_jax.training.groups import group_table

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


# The authors' fine-tuning code: embeddings, positions and both stages of convolutions are layer 0.
LAYERS = {
    "embed_1/patch_embed/proj/kernel": 0,
    "embed/norm/scale": 0,
    "stage_0_block_1/depthwise/kernel": 0,
    "stage_1_block_0/fc1/bias": 0,
    "transformer/patch_embed/proj/kernel": 0,
    "transformer/blocks_0/norm1/scale": 1,
    "transformer/blocks_10/mlp/fc2/kernel": 11,
}


def test_layers_of_the_decay_are_the_blocks_of_the_transformer(whole):
    method, params = whole
    groups = method.param_groups()
    assert groups.depth == 11 and {name: groups.layer(f"encoder/{name}") for name in LAYERS} == LAYERS
    assert groups.layer("encoder/norm/scale") == groups.layer("encoder/fuse_0/proj/kernel") == 12
    assert not group_table(groups, params)["encoder/embed_0/norm/scale"].decay


@pytest.mark.parametrize("ratio, expected", [(4.0, 85_374_824), (8.0, 88_787_816)])
def test_the_classifier(ratio, expected):
    """ConvMAE's and DMJD's base: the trunk, learned positions (14 x 14 x 768) and a head, but no fusion."""
    section = {"arch": "conv_vit", **variant("B", stem_mlp_ratio=(ratio, ratio))}
    method = Finetune.from_config(section, {})
    params = jax.eval_shape(method.init, jax.random.key(0), BATCH).params
    assert count(params) == expected and set(params) == {"encoder", "fc_norm", "head"}
    assert {"norm", "fuse_0"}.isdisjoint(params["encoder"])
    table = group_table(method.param_groups(), params, layer_decay=0.65)
    scales = {name: table[f"encoder/{name}"].lr_scale for name in LAYERS}
    assert scales == pytest.approx({name: 0.65 ** (12 - layer) for name, layer in LAYERS.items()})
    assert table["encoder/transformer/pos_embed"].lr_scale == 0.65**12 and table["head/bias"].lr_scale == 1.0
    assert not table["encoder/transformer/pos_embed"].decay and table["encoder/stage_0_block_0/depthwise/kernel"].decay


def test_drop_path_grows_from_the_first_convolution_to_the_last_block():
    """Five blocks, of which the first is never left out: rates of 0, 0.15, 0.3, 0.45, 0.6, for either branch."""
    config = ConvVitConfig((16, 16), 3, (6, 8), (1, 2), (2, 2), (2, 2, 1), 16, 2, 2, drop_path_rate=0.6)
    encoder, images = ConvVit(config), jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    params = encoder.init(jax.random.key(2), images)
    run = jax.jit(lambda noise: encoder.apply(params, images, noise=noise)[0])
    all_stay, plain = np.ones((2, 5, 2), np.float32), ConvVit(dataclasses.replace(config, drop_path_rate=0.0))
    expected = run(all_stay)
    for block, rate in enumerate((0.0, 0.15, 0.3, 0.45, 0.6)):
        for branch in (0, 1):
            noise = all_stay.copy()
            noise[1, block, branch] = rate + 1e-3
            np.testing.assert_array_equal(run(noise), expected)
            noise[1, block, branch] = max(rate - 1e-3, 0.0)
            moved = np.abs(np.asarray(run(noise) - expected)).max((1, 2))
            assert moved[0] == 0 and (moved[1] > 1e-4) == (block > 0)
    without = plain.apply(params, images, noise=jnp.asarray(all_stay))[0]
    np.testing.assert_array_equal(without, encoder.apply(params, images)[0])


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
        ({"positions": "learned"}, "model.positions 'learned' is not one of"),
        ({"drop_path_rate": 1.0}, "model.drop_path_rate 1.0 must be at least 0 and below 1"),
        ({"drop_path_rate": 0.1}, "model.drop_path_rate 0.1 is for fine-tuning; convmae has no such thing"),
        ({"positions": "learned_sincos"}, "model.positions 'learned_sincos' is for fine-tuning"),
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
