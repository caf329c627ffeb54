"""MFF: sizes, the fusion's start, and that it is MAE where the last tap has all the weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop.verify import verify
from mim_jax.methods.base import Progress
from mim_jax.methods.mae import MAE
from mim_jax.methods.mff import MFF
from mim_jax.models.vit_config import variant
from mim_jax.training.groups import group_table


def sizes(method):
    height, width = method.model.image_size
    batch = {"image": jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)}
    return jax.eval_shape(method.init, jax.random.key(0), batch).params


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_reference_cases(shared):
    for folder in sorted((shared / "goldens" / "mff").glob("*/case.json")):
        report = verify(folder.parent)
        assert report.ok and report.worst < 2e-6, [row for row in report.rows if not row.ok]


def test_parameter_counts():
    params = sizes(MFF.from_config(variant("B/16"), {}))
    assert count(params) == 114_608_646
    assert count(params["fusion"]) == 5 * (768**2 + 768) + 6


def test_it_is_mae_where_the_last_tap_has_all_the_weight():
    """At the start the taps count alike; with a softmax at one tap the linear layers do not matter."""
    mff, mae = MFF.tiny(), MAE.tiny(positions="sincos_row")
    batch = {"image": jax.random.normal(jax.random.key(0), (2, 16, 16, 3))}
    params = jax.jit(mff.init)(jax.random.key(1), batch).params
    draws = mff.draw({}, {}, {}, batch, jax.random.key(2), Progress.last())
    run = jax.jit(lambda method, p: method.forward(p, {}, {}, batch, draws, Progress.last()), static_argnums=0)
    np.testing.assert_allclose(run(mff, params)[1].trace["fusion_weights"], 0.5)
    params["fusion"]["weights"] = jnp.asarray([-50.0, 50.0]).reshape(2, 1, 1, 1)
    (loss, output), (expected, plain) = run(mff, params), run(mae, params)
    np.testing.assert_allclose(output.trace["pred"], plain.trace["pred"], atol=1e-5)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_decay_is_mmpretrains():
    table = group_table(MFF.tiny().param_groups(), sizes(MFF.tiny()))
    assert table["fusion/weights"].decay and table["fusion/proj_0/kernel"].decay
    assert not any(table[name].decay for name in ("encoder/cls_token", "decoder/mask_token", "fusion/proj_0/bias"))
    single = MFF.from_config(dict(image_size=16, patch_size=4, width=16, depth=2, heads=2), dict(taps=(1,)))
    assert group_table(single.param_groups(), sizes(single))["fusion/weights"].frozen


@pytest.mark.parametrize("taps", [(), (0, 2), (1, 0), (0, 0)])
def test_taps_that_are_no_blocks_are_refused(taps):
    model = dict(image_size=16, patch_size=4, width=16, depth=2, heads=2)
    with pytest.raises(ConfigError, match="method.taps .* must be numbers of blocks in rising order, from 0 to 1"):
        MFF.from_config(model, dict(taps=taps, decoder_width=8, decoder_heads=2))
