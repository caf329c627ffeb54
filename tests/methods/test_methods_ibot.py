"""iBOT: its teacher, its crops, its groups, the size of its models, and what it refuses."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.methods.base import Output, Progress
from mim_jax.methods.ibot import IBOT
from mim_jax.models.vit_config import variant
from mim_jax.nn.positions import resize_positions
from mim_jax.training.groups import flat, group_table


def tiny(**method):
    vit = dict(image_size=(16, 24), channels=2, patch_size=4, width=16, depth=1, heads=2)
    head = dict(outputs=12, patch_outputs=12, hidden=16, bottleneck=8) | method.pop("head", {})
    section = dict(mask_ratio=(0.5,), mask_ratio_spread=(0.0,), local_crops=0, head=head)
    return IBOT.from_config(vit | method.pop("model", {}), section | method)


@lru_cache
def started(method, batch=4):
    images = {
        name: jax.random.normal(jax.random.key(n), shape.array(batch))
        for n, (name, shape) in enumerate(method.views().items())
    }
    return images, jax.jit(method.init)(jax.random.key(1), images)


def forward(method, progress, epoch_key=2):
    batch, v = started(method)
    run = jax.jit(lambda: method.loss(v.params, v.extra, v.frozen, batch, jax.random.key(epoch_key), progress))
    return run()


@pytest.mark.parametrize(
    "variant_name, backbone, head",
    [
        ("S/16", 21_665_664, 7_614_720),
        ("B/16", 85_798_656, 8_401_152),
        ("L/16", 303_301_632, 8_925_440),
    ],
)
def test_parameter_counts(variant_name, backbone, head):
    method = IBOT.from_config(variant(variant_name, positions="learned", init="ibot"), {"local_crops": 0})
    example = {"image": jnp.zeros((1, 224, 224, 3)), "image2": jnp.zeros((1, 224, 224, 3))}
    v = jax.eval_shape(method.init, jax.random.key(0), example)
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert size(v.params["encoder"]) == backbone + method.model.width  # the mask token is the student's alone
    assert size(v.params["head"]) == head
    assert size(v.extra["teacher"]) == backbone + head


def test_the_teacher_starts_as_the_student_without_its_mask_token():
    _, v = started(tiny())
    teacher, student = flat(v.extra["teacher"]), flat(v.params)
    assert set(student) - set(teacher) == {"encoder/mask_token"}
    for name, value in teacher.items():
        np.testing.assert_array_equal(value, student[name], err_msg=name)
    assert not student["encoder/mask_token"].any() and (student["head/last_layer/gain"] == 1).all()


def test_the_first_loss_is_near_that_of_equal_probabilities():
    method = tiny(head=dict(outputs=512, patch_outputs=512, hidden=64, bottleneck=256))
    _, output = forward(method, Progress.at(0, 10, 5))
    assert abs(float(output.terms["cls"]) - np.log(512)) < 1.2
    assert abs(float(output.terms["patch"]) - np.log(512)) < 1.2


def test_update_moves_teacher_and_centres():
    method = tiny(ema_momentum=0.8)
    _, v = started(method)
    params = jax.tree.map(lambda p: p + 1.0, v.params)
    means = {"center": jnp.ones(12), "patch_center": jnp.full(12, 2.0)}
    progress = Progress.at(25, 100, 10)
    extra = method.update(v.extra, params, Output(carry=means), progress)
    momentum = 1 - 0.2 * (1 + np.cos(np.pi / 4)) / 2
    for name, value in flat(extra["teacher"]).items():
        np.testing.assert_allclose(value, flat(v.extra["teacher"])[name] + (1 - momentum), rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(extra["center"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(extra["patch_center"], 0.2, rtol=1e-5)


def test_nothing_is_hidden_before_the_epoch_in_which_masking_starts():
    method = tiny(mask_start_epoch=2)
    early, late = forward(method, Progress.at(9, 100, 5))[1], forward(method, Progress.at(10, 100, 5))[1]
    assert not early.trace["mask"].hidden.any() and early.terms["patch"] == 0
    assert late.trace["mask"].hidden.any() and late.terms["patch"] > 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_local_crops(count):
    method = tiny(local_crops=count, local_size=(8, 12), model=dict(drop_path_rate=0.2))
    assert ("local" in method.views()) == bool(count)
    loss, output = forward(method, Progress.at(0, 10, 5))
    assert np.isfinite(loss) and output.trace["student_cls"].shape == (4, 2 + count, 12)


def test_local_crops_join_the_loss_of_class_tokens_alone():
    method = tiny(local_crops=2, local_size=(8, 8))
    batch, v = started(method)
    progress = Progress.at(0, 10, 5)
    draws = method.draw(v.params, v.extra, v.frozen, batch, jax.random.key(2), progress)
    run = jax.jit(lambda batch: method.forward(v.params, v.extra, v.frozen, batch, draws, progress)[1].terms)
    before, after = run(batch), run({**batch, "local": batch["local"] * 2.0})
    assert before["patch"] == after["patch"] and before["cls"] != after["cls"]


def test_a_head_of_its_own_for_the_patches_of_the_student():
    method = tiny(head=dict(shared=False, train_gain=False))
    _, v = started(method)
    assert "last_layer_patches" in v.params["head"] and "last_layer_patches" not in v.extra["teacher"]["head"]
    table = group_table(method.param_groups(), v.params)
    assert table["head/last_layer/gain"].frozen and table["head/last_layer_patches/gain"].frozen
    assert table["head/last_layer_patches/kernel"].held and not table["head/fc3/kernel"].held
    assert np.isfinite(forward(method, Progress.at(0, 10, 5))[0])


def test_groups_decay_what_has_two_axes():
    table = group_table(tiny().param_groups(), started(tiny())[1].params)
    assert all(table[f"encoder/{name}"].decay for name in ("cls_token", "pos_embed", "mask_token"))
    assert table["head/last_layer/gain"].decay and not table["head/last_layer/gain"].frozen
    assert not table["encoder/norm/scale"].decay and not table["head/fc1/bias"].decay


def test_evaluation_sees_the_teacher():
    method = tiny()
    batch, v = started(method)
    other = jax.tree.map(lambda p: p * 1.5, v.params)
    encode = jax.jit(lambda params, extra: method.encode(params, batch["image"], extra=extra).pooled)
    np.testing.assert_array_equal(encode(other, v.extra), encode(v.params, v.extra))
    assert (encode(other, None) != encode(other, v.extra)).any()


@pytest.mark.parametrize("grid, new", [((14, 14), (6, 6)), ((4, 6), (3, 2)), ((3, 3), (3, 5))])
def test_positions_are_resized_with_the_offset(grid, new):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).normal(size=(1, 1 + grid[0] * grid[1], 3)).astype(np.float32)
    patches = torch.from_numpy(table[:, 1:].reshape(1, *grid, 3)).permute(0, 3, 1, 2)
    factor = tuple((n + 0.1) / o for n, o in zip(new, grid, strict=True))
    expected = torch.nn.functional.interpolate(patches, scale_factor=factor, mode="bicubic")
    found = resize_positions(jnp.asarray(table), grid, new, 1, 0.1)
    np.testing.assert_allclose(found[:, 1:].reshape(1, *new, 3), expected.permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_array_equal(found[:, 0], table[:, 0])


@pytest.mark.parametrize(
    "method, sentence",
    [
        (dict(local_crops=2, local_size=(8, 10)), "method.local_size .*width must be a multiple of the patch of 4"),
        (dict(local_crops=2, local_size=(20, 8)), "method.local_size .*height is more than model.image_size"),
        (dict(local_crops=-1), "method.local_crops -1 must be 0 or more"),
        (dict(mask_ratio=(1.0,)), "method.mask_ratio 1.0"),
        (dict(ema_momentum=1.2), "method.ema_momentum 1.2 must lie between 0 and 1"),
        (dict(distillation=dict(temperature=-1.0)), "method.distillation.temperature -1.0 must be positive"),
        (dict(model=dict(cls_token=False)), "model.cls_token False leaves no class token"),
        (dict(local_crops=1, local_size=(8, 8), model=dict(relative_bias="shared")), "model.relative_bias 'shared'"),
    ],
)
def test_bad_settings_are_refused(method, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tiny(**method)


def test_the_method_is_data():
    assert dataclasses.replace(tiny(), ema_momentum=0.9).ema_momentum == 0.9 and hash(tiny()) == hash(tiny())
