"""MaskFeat: sizes, targets, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.methods.base import Progress
from mim_jax.methods.maskfeat import MaskFeat
from mim_jax.models.vit_config import variant
from mim_jax.training.groups import group_table

SMALL = dict(image_size=16, patch_size=4, width=16, depth=1, heads=2)


def sizes(method):
    height, width = method.model.image_size
    batch = {"image": jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)}
    return jax.eval_shape(method.init, jax.random.key(0), batch).params


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name, encoder, head", [("B/16", 85_797_888, 84_588), ("L/16", 303_300_608, 112_748)])
def test_parameter_counts(name, encoder, head):
    params = sizes(MaskFeat.from_config(variant(name, positions="learned", init="maskfeat"), {}))
    # The authors' count leaves the mask token with the encoder.
    assert (count(params["encoder"]), count(params["head"])) == (encoder, head)


def test_encoder_biases_start_at_0_02_and_the_head_at_0():
    method = MaskFeat.tiny()
    params = jax.jit(method.init)(jax.random.key(0), {"image": jnp.zeros((1, 16, 16, 3))}).params
    block = params["encoder"]["blocks_0"]
    for leaf in (block["norm1"]["bias"], block["attn"]["qkv"]["bias"], block["mlp"]["fc2"]["bias"]):
        np.testing.assert_allclose(leaf, 0.02, rtol=1e-6)
    assert not params["head"]["norm"]["bias"].any() and not params["head"]["linear"]["bias"].any()


def test_no_more_than_the_ratio_is_hidden():
    method = MaskFeat.tiny((32, 32))
    batch = {"image": jnp.zeros((64, 32, 32, 3))}
    hidden = jax.jit(method.draw)({}, {}, {}, batch, jax.random.key(0), Progress.last())["mask"].hidden
    assert hidden.sum(1).max() == round(64 * 0.4) and hidden.sum(1).min() > 10


def test_pixel_targets_and_tokens_with_decay():
    method = MaskFeat.from_config(SMALL, {"target": "norm_pix", "hog_cell": 4})
    assert method.outputs == 48
    table = group_table(method.param_groups(), sizes(method))
    assert all(table[f"encoder/{name}"].decay for name in ("cls_token", "mask_token", "pos_embed"))
    assert not table["encoder/blocks_0/norm1/scale"].decay


@pytest.mark.parametrize(
    "model, settings, sentence",
    [
        ({}, {"hog_cell": 3}, "method.hog_cell 3 does not divide model.patch_size"),
        ({}, {"hog_cell": 4, "gaussian_window": 12}, "method.gaussian_window 12 does not divide model.image_size"),
        ({}, {"target": "hogg", "hog_cell": 4}, "method.target 'hogg' is not one of"),
        ({}, {"mask_ratio": 0.999, "hog_cell": 4}, "method.mask_ratio 0.999 leaves 0 of 16 patches visible"),
    ],
)
def test_bad_settings(model, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        MaskFeat.from_config(SMALL | model, settings)
