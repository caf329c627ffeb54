"""LUT: sizes, two views, and the moving average of everything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop.verify import verify
from mim_jax.methods.base import Progress
from mim_jax.methods.lut import LUT
from mim_jax.methods.mae import MAE
from mim_jax.models.vit_config import variant


def test_reference_cases(shared):
    for file in sorted((shared / "goldens" / "lut").glob("*/case.json")):
        report = verify(file.parent)
        assert report.ok and report.worst < 4e-6, [row for row in report.rows if not row.ok]


@pytest.mark.parametrize("name, count", [("S/16", 53_709_568), ("B/16", 124_254_976), ("L/16", 346_032_896)])
def test_parameter_counts(name, count):
    method = LUT.from_config(variant(name), {})
    shapes = jax.eval_shape(method.init, jax.random.key(0), {"image": jnp.zeros((1, 224, 224, 3))})
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count


@pytest.fixture(scope="module")
def started():
    method = LUT.tiny()
    batch = {
        name: jax.random.normal(jax.random.key(i), v.array(4)) for i, (name, v) in enumerate(method.views().items())
    }
    return method, batch, jax.jit(method.init)(jax.random.key(9), batch)


def test_without_the_second_loss_it_is_mae(started):
    method, batch, v = started
    draws = method.draw(v.params, v.extra, {}, batch, jax.random.key(2), Progress.last())
    loss, output = jax.jit(method.forward)(v.params, v.extra, {}, batch, draws, Progress.last())
    plain = jax.jit(MAE.tiny().forward)(v.params, {}, {}, batch, draws, Progress.last())[0]
    np.testing.assert_allclose(output.terms["reconstruction"], plain, rtol=1e-6)
    assert 0 <= output.terms["broad"] <= 4
    np.testing.assert_allclose(loss, plain + 0.25 * output.terms["broad"], rtol=1e-6)


def test_views_show_different_patches_and_statistics_move(started):
    method, batch, v = started
    draws = method.draw(v.params, v.extra, {}, batch, jax.random.key(2), Progress.last())
    second = np.asarray(draws["mask"].masked[:, : method.seen])
    assert not any(set(a) & set(b) for a, b in zip(np.asarray(draws["mask"].visible), second, strict=True))
    _, output = jax.jit(method.forward)(v.params, v.extra, {}, batch, draws, Progress.last())
    extra = method.update(v.extra, v.params, output, Progress.at(0, 10, 5))
    first, then = (moments["projector"]["norm_0"]["mean"] for moments in output.carry)
    moved = extra["statistics"]["projector"]["norm_0"]["mean"]
    np.testing.assert_allclose(moved, 0.9 * 0.1 * first + 0.1 * then, rtol=1e-4, atol=1e-6)
    averaged = extra["teacher"]["statistics"]["projector"]["norm_0"]["mean"]
    np.testing.assert_allclose(averaged, 0.004 * moved, rtol=1e-3, atol=1e-7)
    last = method.update(v.extra, jax.tree.map(jnp.zeros_like, v.params), output, Progress.at(10, 10, 5))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), last["teacher"]["params"], v.extra["teacher"]["params"])
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(mask_ratio=0.4), "which cannot be different ones; take at least 0.5"),
        (dict(head_norm="layer"), "method.head_norm 'layer' is not one of"),
        (dict(ema_momentum=1.5), "method.ema_momentum 1.5 must lie between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        LUT.from_config(variant("S/16"), settings)
