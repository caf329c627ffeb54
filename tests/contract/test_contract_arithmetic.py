"""The same numbers however the method is run."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_case import Case, compiled, make_batch

from mim_jax.errors import ConfigError
from mim_jax.methods.base import Progress
from mim_jax.training.groups import flat, group_table


def test_init_is_float32_finite_and_a_function_of_the_key(case):
    init = compiled(case.method, "init")
    first, again, other = (
        flat(jax.device_get(variables.params))
        for variables in (case.variables, init(jax.random.key(1), case.batch), init(jax.random.key(9), case.batch))
    )
    for name, leaf in first.items():
        assert leaf.dtype == np.float32 and np.isfinite(leaf).all(), name
        np.testing.assert_array_equal(leaf, again[name], err_msg=name)
    assert any((leaf != other[name]).any() for name, leaf in first.items())


def test_loss_is_a_positive_finite_scalar(case):
    loss, output = case.forward()
    assert loss.shape == () and loss.dtype == jnp.float32
    assert 0 < float(loss) < 100
    if case.method.masks:
        assert {"mask", "latent", "pred"} <= set(output.trace)


def test_gradients_reach_exactly_the_expected_parameters(case):
    for name, gradient in case.loss_and_gradients()[1].items():
        exempt = any(re.search(pattern, name) for pattern in case.method.without_gradient)
        assert (gradient != 0).any() != exempt, name


@pytest.mark.slow  # compiles every operation by itself
def test_jit_equals_no_jit(case):
    np.testing.assert_allclose(case.eager_forward()[0], case.loss(), rtol=1e-5)


def test_loss_is_draw_then_forward(case):
    v = case.variables
    loss, _ = jax.jit(case.method.loss)(v.params, v.extra, v.frozen, case.batch, jax.random.key(2), case.progress)
    np.testing.assert_allclose(loss, case.loss(), rtol=1e-6)


def test_rectangles_and_odd_channels(cls):
    case = Case(cls.tiny((16, 24), 5))
    assert np.isfinite(case.loss())
    features = case.encode(case.batch["image"])
    assert features.grid[0] * features.grid[1] == features.patches.shape[1]
    assert features.grid[0] < features.grid[1]


def test_upright_rectangles_and_one_channel_have_fitting_shapes(cls):
    """Traced and not compiled: what goes wrong in the turned image goes wrong in its shapes."""
    method = cls.tiny((24, 16), 1)
    batch = make_batch(method)

    def whole(key):
        v = method.init(key, batch)
        loss, _ = method.loss(v.params, v.extra, v.frozen, batch, key, Progress.at(3, 100, 10))
        return loss, method.encode(v.params, batch["image"], extra=v.extra)

    loss, features = jax.eval_shape(whole, jax.random.key(1))
    assert loss.shape == () and features.grid[0] > features.grid[1]
    assert features.grid[0] * features.grid[1] == features.patches.shape[1]


def test_bfloat16_is_finite_and_near_float32(cls):
    case, half = Case(cls.tiny()), cls.tiny(precision="bf16")
    loss, gradients = case.loss_and_gradients(half)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, case.loss(), rtol=0.05)
    for name, gradient in gradients.items():
        assert gradient.dtype == np.float32 and np.isfinite(gradient).all(), name


HOWS = [dict(scan=True, remat="dots"), pytest.param(dict(remat="full"), marks=pytest.mark.slow)]


@pytest.mark.parametrize("how", HOWS)
def test_scan_and_remat_change_nothing(cls, case, how):
    fields = [f.name for f in dataclasses.fields(case.method.model)]
    if not set(how) <= set(fields):
        pytest.skip(f"this model has no {', '.join(set(how) - set(fields))}")
    other = cls.tiny(**how)
    (loss, plain), (same, special) = case.loss_and_gradients(), case.loss_and_gradients(other)
    np.testing.assert_allclose(same, loss, rtol=1e-5)
    fresh = jax.eval_shape(other.init, jax.random.key(1), case.batch).params
    assert jax.tree.structure(fresh) == jax.tree.structure(case.variables.params)
    for name in plain:
        np.testing.assert_allclose(special[name], plain[name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_extra_keeps_its_structure(case):
    v = case.variables
    _, output = case.forward()
    new = jax.eval_shape(case.method.update, v.extra, v.params, output.replace(trace={}), case.progress)
    describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert describe(new) == describe(v.extra)


def test_encode_sees_the_whole_image(case):
    image = case.batch["image"]
    features = case.encode(image, layers=True)
    batch, tokens, width = features.patches.shape
    assert batch == 8 and tokens == features.grid[0] * features.grid[1]
    assert features.pooled.shape == (8, width) and features.pooled.dtype == jnp.float32
    assert features.cls is None or features.cls.shape == (8, width)
    assert len(features.layers) >= 1
    for row in range(0, 16, 8):
        changed = image.at[:, row : row + 8, :8].add(1.0)
        assert (case.encode(changed).pooled != features.pooled).any()
    reverse = case.encode(image[::-1])
    np.testing.assert_allclose(reverse.pooled[::-1], features.pooled, rtol=1e-4, atol=1e-5)


def test_pictures_are_images(case):
    v = case.variables
    pictures = jax.jit(case.method.show)(v.params, v.extra, v.frozen, case.batch, jax.random.key(0))
    assert "input" in pictures.panels and len(pictures.panels) + len(pictures.maps) > 1
    for name, panel in pictures.panels.items():
        assert panel.ndim == 4 and panel.shape[0] == 8 and bool(jnp.isfinite(panel).all()), name
    for name, heat in pictures.maps.items():
        assert heat.ndim == 3 and bool((heat >= 0).all()), name
    np.testing.assert_array_equal(pictures.panels["input"], case.batch["image"])


def test_parameter_groups_name_real_parameters(case):
    groups, params = case.method.param_groups(), case.variables.params
    table = group_table(groups, params, layer_decay=0.5)
    assert set(table) == set(flat(params))
    scales = {group.lr_scale for group in table.values()}
    assert min(scales) >= 0.5 ** (groups.depth + 1) and max(scales) == 1.0
    for pattern in groups.no_decay:
        assert any(re.search(pattern, name) for name in flat(params)), pattern


def test_unknown_keys_are_refused_with_the_nearest(cls):
    with pytest.raises(ConfigError, match="model.image_sise.*did you mean 'image_size'"):
        cls.from_config({"image_sise": 3}, {})
    with pytest.raises(ConfigError, match="method.mask_rati"):
        cls.from_config({}, {"mask_rati": 0.5})
