"""BEiT: sizes, start, targets, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.methods.base import Progress
from mim_jax.methods.beit import FAMILY, BEiT
from mim_jax.models.vit_config import variant
from mim_jax.training.groups import group_table

SMALL = dict(image_size=16, patch_size=4, width=16, depth=2, heads=2)
TOKENIZER = dict(kind="vq", image_size=16, stride=4, vocabulary=11, hidden=8)


def shapes(method):
    batch = {name: jax.ShapeDtypeStruct(shape.array(1), jnp.float32) for name, shape in method.views().items()}
    return jax.eval_shape(method.init, jax.random.key(0), batch)


@pytest.mark.parametrize("name, scale, total", [("B/16", 0.1, 91_965_776), ("L/16", 1e-5, 311_534_016)])
def test_parameter_counts(name, scale, total):
    method = BEiT.from_config(variant(name, **FAMILY | {"layer_scale": scale}), {})
    variables = shapes(method)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables.params)) == total


def test_start_is_cut_at_one_deviation_and_rescaled_by_depth():
    model = dict(image_size=16, patch_size=4, width=64, depth=4, heads=2)
    method = BEiT.from_config(model, dict(num_mask_patches=6, min_block=2, tokenizer=TOKENIZER))
    batch = {name: jnp.zeros(shape.array(1)) for name, shape in method.views().items()}
    params = jax.jit(method.init)(jax.random.key(0), batch).params
    first = params["encoder"]["blocks_0"]["attn"]["qkv"]["kernel"]
    assert np.abs(first).max() <= 0.02
    assert np.std(first) == pytest.approx(0.0108, rel=0.03)
    for number in range(4):
        block = params["encoder"][f"blocks_{number}"]
        for matrix in (block["attn"]["proj"]["kernel"], block["mlp"]["fc2"]["kernel"]):
            assert np.std(matrix) == pytest.approx(0.0108 / np.sqrt(2 * (number + 1)), rel=0.06)
    assert not params["encoder"]["relative_bias"]["table"].any()
    assert (params["encoder"]["blocks_0"]["gamma_1"] == 0.1).all()


def test_ids_may_come_instead_of_pixels():
    """The target of a view of pixels is the tokenizer's answer; integers are ids already."""
    method = BEiT.tiny()
    batch = {name: jax.random.uniform(jax.random.key(1), shape.array(2)) for name, shape in method.views().items()}
    v = jax.jit(method.init)(jax.random.key(0), batch)
    draws = jax.jit(method.draw)(v.params, v.extra, v.frozen, batch, jax.random.key(2), Progress.last())
    forward = jax.jit(method.forward)
    loss, output = forward(v.params, v.extra, v.frozen, batch, draws, Progress.last())
    ids = output.trace["target"]
    again, _ = forward(v.params, v.extra, v.frozen, {**batch, "tokens": ids}, draws, Progress.last())
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    other, _ = forward(v.params, v.extra, v.frozen, {**batch, "tokens": (ids + 1) % 11}, draws, Progress.last())
    assert other != loss


def test_decay_as_released():
    """cls and position tokens take none; the mask token and the relative table do."""
    method = BEiT.tiny()
    table = group_table(method.param_groups(), shapes(method).params)
    assert not table["encoder/cls_token"].decay
    assert table["encoder/mask_token"].decay and table["encoder/relative_bias/table"].decay


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"tokenizer": TOKENIZER | {"stride": 8}}, "makes 2 x 2 tokens of images .* but the encoder has 4 x 4 patches"),
        ({"tokenizer": TOKENIZER | {"stridde": 8}}, "method.tokenizer.stridde.*did you mean 'stride'"),
        ({"tokenizer": TOKENIZER, "num_mask_patches": 16}, "method.num_mask_patches 16 must be between 1 and 15"),
        ({"tokenizer": TOKENIZER, "num_mask_patches": 6}, "method.min_block 16 must be between 1 and"),
    ],
)
def test_bad_settings(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        BEiT.from_config(SMALL, settings)
