"""dBOT: sizes, the first teacher, stages that read each other, targets, and what it refuses."""

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
from mim_jax.methods.dbot import DBOT
from mim_jax.methods.dbot_beit import DBOTBeit
from mim_jax.targets.features import normalize_features
from mim_jax.training.groups import group_table


def batch_of(method, size=2):
    views = method.views()
    noise = {name: jax.random.uniform(jax.random.key(1), view.array(size)) for name, view in views.items()}
    return {**noise, "image": noise["teacher"]} if views["image"].size == views["teacher"].size else noise


@pytest.mark.parametrize("name", ["mae_no_teacher_norm", "beit_branch"])
def test_reference_cases(shared, name):
    report = verify(shared / "goldens" / "dbot" / name)
    assert report.ok and not report.footnotes and report.worst < 3e-6


@pytest.mark.parametrize(
    "config, expected",
    [
        ("dbot/imagenet1k.py", 111_655_680),
        ("dbot/imagenet1k.py:variant=L/16", 329_370_624),
        ("dbot/imagenet1k.py:variant=H/14", 656_968_960),
        ("dbot_beit/imagenet1k.py", 86_059_856),
    ],
)
def test_parameter_counts(root, config, expected):
    method = registry.build(configs.load(str(root / "configs" / config)))
    batch = {name: jax.ShapeDtypeStruct(view.array(1), jnp.float32) for name, view in method.views().items()}
    params = jax.eval_shape(method.init, jax.random.key(0), batch).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_the_first_teacher_is_the_students_own_start():
    method = DBOT.tiny()
    made = jax.jit(method.init)(jax.random.key(0), batch_of(method))
    teacher = made.frozen["teacher"]
    assert "norm" not in teacher and set(teacher) < set(made.params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, teacher, {k: made.params["encoder"][k] for k in teacher})


def test_a_teacher_without_blocks_embeds():
    small = dict(image_size=16, patch_size=4, width=16, depth=2, heads=2)
    given = dict(model=small, norm=False, blocks=0, mean=(0.0,) * 3, std=(1.0,) * 3)
    method = DBOT.from_config(small, dict(teacher=given, decoder_width=8, decoder_depth=1, decoder_heads=2))
    batch = batch_of(method)
    made = jax.jit(method.init)(jax.random.key(0), batch)
    assert set(made.frozen["teacher"]) == {"cls_token", "patch_embed"}
    loss, _ = jax.jit(method.loss)(made.params, {}, made.frozen, batch, jax.random.key(2), Progress.last())
    assert np.isfinite(loss)


def test_stages_of_a_pipeline_teach_each_other(root):
    config = configs.load(str(root / "configs/dbot/cifar10.py:stages=3"))
    sources = [stage.method.teacher.source for stage in config.stages.values()]
    assert sources == ["", "stage:stage1", "stage:stage2"]


def test_the_variance_is_unbiased():
    x = np.random.default_rng(0).normal(1.0, 2.0, (3, 7)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(normalize_features(jnp.asarray(x), 1e-6, unbiased=True), expected, rtol=1e-5, atol=1e-6)


def test_weight_decay_of_the_second_form():
    method = DBOTBeit.tiny()
    params = jax.eval_shape(method.init, jax.random.key(0), batch_of(method)).params
    table = group_table(method.param_groups(), params)
    assert not table["encoder/cls_token"].decay and table["encoder/mask_token"].decay


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: DBOT.tiny_of((16, 16), 3, {}), "method.teacher.source is empty, which makes the student's own start"),
        (lambda: DBOTBeit.tiny_of((16, 16), 3, {}, num_mask_patches=16), "method.num_mask_patches 16 must be below"),
        (lambda: DBOTBeit.tiny_of((16, 16), 3, {}, teacher=dict(blocks=3), num_mask_patches=6), "teacher.blocks 3"),
    ],
)
def test_bad_settings(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()
