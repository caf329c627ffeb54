"""Fitting an encoder to other patches, channels, grids: what `training.fit` changes, says and refuses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.methods.classifiers import encoder_section
from mim_jax.methods.finetune import Finetune
from mim_jax.methods.mae import MAE
from mim_jax.methods.simmim import SimMIM
from mim_jax.methods.spark import SparK
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.patches import change_channels, resize_patch_kernel
from mim_jax.nn.positions import resize_positions
from mim_jax.training.fit import fit
from mim_jax.training.groups import flat
from mim_jax.training.start import Source, Start

PATCHES = "patch_embed/proj/kernel"


def shapes_of(method):
    views = {name: jax.ShapeDtypeStruct(shape.array(1), jnp.float32) for name, shape in method.views().items()}
    return jax.eval_shape(method.init, jax.random.key(0), views)


def filled(shapes):
    random = np.random.default_rng(5)
    return jax.tree.map(lambda s: random.normal(size=s.shape).astype(s.dtype), shapes)


def fitted(method, other):
    """The encoder of `method`, with random weights, for that of `other`; and those weights."""
    given = flat(filled(shapes_of(method).params["encoder"]))
    return fit(given, method.model, flat(shapes_of(other).params["encoder"]), other.model, "the source"), given


def classifier(encoder, **changes):
    return Finetune.from_config(encoder_section(dataclasses.replace(encoder, **changes)), dict(classes=3))


def everything(method, other):
    """`other` started with all of `method`."""
    made = Source("the source", method, filled(shapes_of(method)))
    return Start(other, lambda: made, "all", lambda _: None).check()


def test_patches_of_another_size_with_the_grid_that_they_make():
    mae = MAE.tiny()
    found, given = fitted(mae, classifier(mae.model, patch_size=(8, 2), positions="learned"))
    np.testing.assert_array_equal(found.arrays[PATCHES], resize_patch_kernel(given[PATCHES], (4, 4), (8, 2)))
    np.testing.assert_array_equal(found.arrays["patch_embed/proj/bias"], given["patch_embed/proj/bias"])
    assert found.arrays["pos_embed"].shape == (1, 17, 16)
    assert found.changed == (
        "patch_embed resized from 4 x 4 to 8 x 2 pixels",
        "fixed positions made the start of learned ones",
        "positions resized from 4 x 4 to 2 x 8",
    )
    larger = classifier(mae.model, patch_size=(8, 8), image_size=(32, 32))
    assert fitted(mae, larger)[0].changed == (
        "patch_embed resized from 4 x 4 to 8 x 8 pixels",
        "fixed positions made the start of learned ones",
    )


def test_other_channels_and_patches_together():
    mae = MAE.tiny()
    found, given = fitted(mae, MAE.tiny(channels=4, patch_size=8, image_size=(32, 32)))
    kernel = change_channels(given[PATCHES].reshape(4, 4, 3, 16), 4).reshape(-1, 16)
    np.testing.assert_allclose(found.arrays[PATCHES], resize_patch_kernel(kernel, (4, 4), (8, 8)), atol=1e-6)
    assert found.changed[0] == "patch_embed made of 3 channels for 4"


@pytest.mark.parametrize(
    "make, path",
    [
        (lambda **k: SimMIM.tiny(arch="swin", **k), PATCHES),
        (lambda **k: SparK.tiny(**k), "conv1/kernel"),
        (lambda **k: SparK.tiny(arch="convnext", **k), "downsample_0/conv/kernel"),
    ],
)
def test_channels_of_the_other_families(make, path):
    method, grey = make(), make(channels=1)
    found, given = fitted(method, grey)
    by_channel = given[path] if given[path].ndim == 4 else given[path].reshape(-1, 3, given[path].shape[-1])
    expected = by_channel.sum(axis=-2, keepdims=True).reshape(found.arrays[path].shape)
    np.testing.assert_allclose(found.arrays[path], expected, rtol=1e-6)
    assert found.changed == (f"{path.partition('/')[0]} made of 3 channels for 1",)


def test_patches_of_swin():
    method = SimMIM.tiny(arch="swin")
    side = method.model.patch_size[0]
    other = SimMIM.tiny(
        arch="swin", patch_size=2 * side, image_size=tuple(2 * size for size in method.model.image_size)
    )
    found, given = fitted(method, other)
    expected = resize_patch_kernel(given[PATCHES], (side, side), (2 * side, 2 * side))
    np.testing.assert_array_equal(found.arrays[PATCHES], expected)


@pytest.mark.parametrize("rule", [dict(), dict(position_offset=0.1), dict(position_antialias=True)])
def test_positions_go_to_another_grid_by_the_rule_of_the_config(rule):
    mae = MAE.tiny(positions="learned", **rule)
    found, given = fitted(mae, MAE.tiny(positions="learned", image_size=(24, 20), **rule))
    settings = (rule.get("position_offset", 0.0), rule.get("position_antialias", False))
    expected = resize_positions(jnp.asarray(given["pos_embed"]), (4, 4), (6, 5), 1, *settings)
    np.testing.assert_array_equal(found.arrays["pos_embed"], expected)


def test_what_distillation_alone_needs_may_stay_behind_but_not_start_untrained():
    mae = MAE.tiny()
    found, _ = fitted(MAE.tiny(projection=4), mae)
    assert found.left == ("projection",)
    with pytest.raises(ConfigError, match="the source has no encoder/projection, which the model of this run needs"):
        fitted(mae, MAE.tiny(projection=4))


@pytest.mark.parametrize(
    "switches, words",
    [
        (dict(activation="quick_gelu"), "model.activation is 'quick_gelu', but the source has an encoder with 'gelu'"),
        (dict(registers=2), "the source has no encoder/register_tokens, which the model of this run needs"),
        (dict(mlp="swiglu"), "model.mlp is 'swiglu', but the source has an encoder with 'mlp'; make them equal"),
        (dict(pre_norm=True), "the source has no encoder/pre_norm/"),
        (dict(patch_bias=False), "the source has encoder/patch_embed/proj/bias, for which"),
    ],
)
def test_another_network_is_refused(switches, words):
    with pytest.raises(ConfigError, match=words):
        fitted(MAE.tiny(), MAE.tiny(**switches))


def test_heads_for_patches_of_another_size_are_refused():
    """All of a run: what predicts pixels cannot be resized; what predicts classes or ids does not care."""
    with pytest.raises(ConfigError, match=r"this run has decoder/head/bias as \(192,\), the source has it as \(48,\)"):
        everything(MAE.tiny(), MAE.tiny(patch_size=8, image_size=(32, 32)))
    with pytest.raises(ConfigError, match=r"has heads for patches of \(4, 4, 3\) .*cannot be changed to \(2, 8, 3\)"):
        everything(MAE.tiny(), MAE.tiny(patch_size=(2, 8)))
    everything(MAE.tiny(), MAE.tiny(image_size=(24, 16)))
    model = VitConfig((16, 16), 3, (4, 4), 16, 2, 2)
    everything(classifier(model), classifier(model, patch_size=(2, 8)))
