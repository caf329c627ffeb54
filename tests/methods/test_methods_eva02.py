"""EVA-02 and EVA-01: sizes, how they start, weight decay, and what they refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.interop.verify import verify
from mim_jax.methods import registry
from mim_jax.methods.base import Progress
from mim_jax.methods.eva02 import EVA02
from mim_jax.training.groups import group_table


def shapes(method):
    batch = {name: jax.ShapeDtypeStruct(view.array(1), jnp.float32) for name, view in method.views().items()}
    return jax.eval_shape(method.init, jax.random.key(0), batch)


@pytest.mark.parametrize("name", ["base_like_swiglu_subln_rope", "tiny_like_fused_qkv_swiglu_rope", "rope_same_grid"])
def test_reference_cases(shared, name):
    report = verify(shared / "goldens" / "eva02" / name)
    assert report.ok and not report.footnotes and report.worst < 1e-5


@pytest.mark.parametrize(
    "size, expected", [("Ti", 5_699_968), ("S", 22_015_744), ("B", 86_546_944), ("L", 304_319_424)]
)
def test_parameter_counts(root, size, expected):
    method = registry.build(configs.load(str(root / f"configs/eva02/imagenet1k.py:size={size}")))
    params = shapes(method).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    table = group_table(method.param_groups(), params)
    assert table["encoder/mask_token"].decay and not table["encoder/pos_embed"].decay


def test_eva01_is_a_plain_giant_taught_by_clip(root):
    method = registry.build(configs.load(str(root / "configs/eva02/imagenet1k.py:size=g")))
    model, teacher = method.model, method.teacher.model
    assert (model.width, model.depth, model.heads, int(model.width * model.mlp_ratio)) == (1408, 40, 16, 6144)
    assert (model.mlp, model.rope, model.mlp_norm, model.patch_gradient) == ("mlp", 0, False, 1.0)
    assert (teacher.width, teacher.projection, teacher.grid) == (1024, 768, (16, 16))


def test_eva01_starts_narrow():
    method = EVA02.tiny_of((32, 32), 3, dict(init="eva01", width=64, heads=4), num_mask_patches=6, min_block=2)
    batch = {name: jnp.zeros(view.array(1)) for name, view in method.views().items()}
    kernel = np.asarray(
        jax.jit(method.init)(jax.random.key(0), batch).params["encoder"]["blocks_0"]["mlp"]["fc1"]["kernel"]
    )
    assert np.abs(kernel).max() <= 0.015 and kernel.std() == pytest.approx(0.54 * 0.015, rel=0.05)


def test_the_class_token_can_be_a_target():
    method = EVA02.tiny_of((16, 16), 3, {}, num_mask_patches=6, min_block=2, predict_cls=True)
    batch = {name: jax.random.uniform(jax.random.key(1), view.array(2)) for name, view in method.views().items()}
    made = jax.jit(method.init)(jax.random.key(0), batch)
    _, output = jax.jit(method.loss)(made.params, {}, made.frozen, batch, jax.random.key(2), Progress.last())
    assert output.trace["pred"].shape[1] == 17 and output.trace["counted"][:, 0].all()
    assert output.weight == 2 + output.trace["mask"].hidden.sum()


@pytest.mark.parametrize(
    "model, settings, sentence",
    [
        ({}, {"num_mask_patches": 16}, "method.num_mask_patches 16 must be below the number of patches, 16"),
        ({}, {"num_mask_patches": 4, "min_block": 5}, "at least method.min_block 5"),
        ({"cls_token": False}, {"num_mask_patches": 6, "min_block": 2}, "model.cls_token must be true"),
    ],
)
def test_bad_settings(model, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        EVA02.tiny_of((16, 16), 3, model, **settings)
