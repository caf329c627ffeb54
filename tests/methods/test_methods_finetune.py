"""Fine-tuning: every family of encoders, partial training, micro-batches with mixing, repeated images, sentences."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError, DataError
from mim_jax.methods.base import Progress
from mim_jax.methods.finetune import Finetune
from mim_jax.training.groups import flat, group_table
from mim_jax.training.step import loss_and_grads

PROGRESS = Progress.at(0, 10, 5)
MODELS = {
    "vit": dict(patch_size=4, width=16, depth=2, heads=2),
    "conv_vit": dict(
        stem_width=(6, 8), stem_depth=(1, 2), stem_mlp_ratio=(2, 2), strides=(2, 2, 1), width=16, depth=2, heads=2
    ),
    "swin": dict(patch_size=2, width=16, depths=(2, 2), heads=(1, 2), window_size=2),
    "resnet": dict(width=(4, 8), depth=(1, 1), stem_width=4, stem_stride=2, block="basic"),
    "convnext": dict(width=(4, 8), depth=(1, 1), stem_stride=2, layer_scale=0.1),
}


def make(arch="vit", model=None, **method):
    section = MODELS[arch] | dict(arch=arch, image_size=(16, 16)) | (model or {})
    return Finetune.from_config(section, dict(classes=5) | method)


def batch_of(method, size=8):
    shape = method.views()["image"].array(size)
    return {"image": jax.random.normal(jax.random.key(3), shape), "label": jnp.arange(size) % 5}


def begin(method, size=8):
    batch = batch_of(method, size)
    v = jax.jit(method.init)(jax.random.key(0), batch)
    draws = jax.jit(method.draw)(v.params, v.extra, v.frozen, batch, jax.random.key(1), PROGRESS)
    return v, batch, draws


@pytest.mark.parametrize("arch", MODELS)
def test_every_family(arch):
    """The head's logits are those that the loss saw; statistics of batch norms move; `encode` says what was pooled."""
    method = make(arch, dict(drop_path_rate=0.2), mixup=0.0, cutmix=0.0, head_std=0.3)
    v, batch, draws = begin(method)
    loss, output = jax.jit(method.forward)(v.params, v.extra, {}, batch, draws, PROGRESS)
    assert np.isfinite(loss) and output.trace["logits"].shape == (8, 5)
    moved = method.update(v.extra, v.params, output, PROGRESS)
    assert jax.tree.structure(moved) == jax.tree.structure(v.extra)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (moved, v.extra)), strict=True)) == (
        arch == "resnet"
    )
    features = jax.jit(partial(method.encode, layers=True))(v.params, batch["image"], extra=v.extra)
    kernel, bias = method.classifier(v.params)
    out = jax.jit(method.classify)(v.params, batch["image"], v.extra)
    np.testing.assert_allclose(features.pooled @ kernel + bias, out.logits, rtol=1e-4, atol=1e-5)
    assert features.patches.shape[1] == features.grid[0] * features.grid[1]
    table = group_table(method.param_groups(), v.params, layer_decay=0.5)
    assert table["head/kernel"].lr_scale == 1.0 and min(g.lr_scale for g in table.values()) < 0.5


def test_a_mixed_batch_in_micro_batches():
    """The partner of an image lies in another micro-batch, and still the whole batch's gradient comes out."""
    method = make(head_std=0.3)
    v, batch, draws = begin(method)
    assert 0 < float(draws["mix"].share.mean()) < 1
    compute = jax.jit(partial(loss_and_grads, method), static_argnums=5)
    loss, output, grads = compute(v, {}, batch, draws, PROGRESS, 1)
    split_loss, split_output, split = compute(v, {}, batch, draws, PROGRESS, 4)
    np.testing.assert_allclose(split_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(split_output.metrics["top1"], output.metrics["top1"], rtol=1e-6)
    for name, leaf in flat(grads).items():
        np.testing.assert_allclose(flat(split)[name], leaf, rtol=1e-3, atol=1e-6, err_msg=name)


def test_repeated_images_equal_a_batch_of_all_crops():
    """Two crops of four images are eight images, each with its image's label."""
    twice, once = make(repeated=2, head_std=0.3), make(head_std=0.3)
    v, batch, draws = begin(twice, 4)
    flat_batch = {"image": batch["image"].reshape(8, 16, 16, 3), "label": jnp.repeat(batch["label"], 2)}
    alone = jax.jit(once.draw)(v.params, v.extra, {}, flat_batch, jax.random.key(1), PROGRESS)
    loss = jax.jit(twice.forward)(v.params, v.extra, {}, batch, draws, PROGRESS)[0]
    expected = jax.jit(once.forward)(v.params, v.extra, {}, flat_batch, alone, PROGRESS)[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert twice.flops() == 2 * once.flops()


@pytest.mark.parametrize(
    "arch, blocks, trained",
    [
        ("vit", 1, r"^(head|fc_norm|encoder/blocks_1)/"),
        ("vit", 0.5, r"^(head|fc_norm)/|^encoder/blocks_1/(norm2|mlp)/"),
        ("vit", 2, r"^(head|fc_norm)/|^encoder/blocks_"),
        ("conv_vit", 1, r"^(head|fc_norm|encoder/transformer/blocks_1)/"),
        ("conv_vit", 0.5, r"^(head|fc_norm)/|^encoder/transformer/blocks_1/(norm2|mlp)/"),
        ("swin", 1, r"^head/|^encoder/(norm/|stages_1/blocks_1/)"),
        ("resnet", 1, r"^head/|^encoder/stage_1_"),
    ],
)
def test_partial_training(arch, blocks, trained):
    method = make(arch, trainable_blocks=blocks)
    table = group_table(method.param_groups(), jax.eval_shape(method.init, jax.random.key(0), batch_of(method)).params)
    for name, group in table.items():
        assert group.frozen != bool(re.search(trained, name)), name


def test_a_shared_table_stands_still_with_the_blocks_that_use_it():
    method = make(model=dict(relative_bias="shared"), trainable_blocks=1)
    assert any("relative_bias" in pattern for pattern in method.param_groups().frozen)


@pytest.mark.parametrize(
    "arch, model, method, words",
    [
        ("vit", dict(cls_token=False), dict(pooling="cls"), "pooling 'cls' needs an encoder with model.cls_token"),
        ("conv_vit", {}, dict(pooling="cls"), "pooling 'cls' needs an encoder with model.cls_token"),
        ("conv_vit", {}, dict(trainable_blocks=3), "trainable_blocks 3 must be a whole number from 0 .all. to 2"),
        ("vit", {}, dict(trainable_blocks=3), "trainable_blocks 3 must be a whole number from 0 .all. to 2, or 0.5"),
        ("resnet", {}, dict(trainable_blocks=0.5), "trainable_blocks 0.5 must be"),
        ("vit", {}, dict(mixup=-1.0), "method.mixup -1.0 must be at least 0"),
        ("vit", {}, dict(classes=1), "method.classes 1 must be at least 2"),
        ("vit", {}, dict(criterion="ce"), "method.criterion 'ce' is not one of cross_entropy, binary"),
        ("vit", dict(arch="vitt"), {}, "model.arch 'vitt' is not known; did you mean 'vit'"),
    ],
)
def test_impossible_settings_are_refused(arch, model, method, words):
    with pytest.raises(ConfigError, match=words):
        make(arch, model, **method)


def test_images_without_labels_are_refused():
    method = make()
    v, batch, _ = begin(method)
    with pytest.raises(DataError, match="fine-tuning needs labels"):
        method.draw(v.params, v.extra, {}, {"image": batch["image"]}, jax.random.key(0), PROGRESS)
