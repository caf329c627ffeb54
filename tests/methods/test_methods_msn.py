"""MSN: its reference cases, its passes, its statistics, the size of its models, and what it refuses."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.interop.verify import discover, verify
from mim_jax.methods import registry
from mim_jax.methods.base import Progress
from mim_jax.methods.msn import MSN
from mim_jax.training.groups import flat, group_table

# The largest difference measured, relative to the largest magnitude of the array.
CASES = {"loss_plain": 4.1e-7, "loss_sinkhorn_memax": 6.8e-7, "step_bn_head": 1.1e-5}


@pytest.mark.parametrize("name, measured", CASES.items())
def test_reference_case(shared, name, measured):
    report = verify(shared / "goldens" / "msn" / name)
    assert report.ok and report.worst < 4 * measured


def test_no_case_is_left_out(shared):
    assert {path.name for path in discover(shared / "goldens" / "msn")} == set(CASES)


@pytest.mark.parametrize(
    "name, values, failing",
    [
        ("loss_plain", dict(sharpen=0.3), "targets"),
        ("loss_sinkhorn_memax", dict(label_smoothing=0.1), "probs"),
        ("loss_sinkhorn_memax", dict(me_max=False), "loss_memax"),
        ("loss_plain", dict(use_entropy=True), "loss_entropy"),
    ],
)
def test_a_changed_case_fails(shared, tmp_path, name, values, failing):
    folder = shutil.copytree(shared / "goldens" / "msn" / name, tmp_path / "msn" / name)
    content = json.loads((folder / "case.json").read_text())
    content["config"] |= values
    folder.joinpath("case.json").chmod(0o644)
    (folder / "case.json").write_text(json.dumps(content))
    assert failing in {row.name for row in verify(folder).rows if not row.ok}


def tiny(**method):
    vit = dict(image_size=(16, 24), channels=2, patch_size=4, width=16, depth=1, heads=2) | method.pop("model", {})
    sizes = dict(local_crops=0, head_hidden=12, head_outputs=6, prototypes=10, patch_drop=0.5)
    return MSN.from_config(vit, sizes | method)


def started(method, batch=4):
    images = {
        name: jax.random.normal(jax.random.key(n), shape.array(batch))
        for n, (name, shape) in enumerate(method.views().items())
    }
    return images, jax.jit(method.init)(jax.random.key(1), images)


def draws_of(method, batch, v, seed=3):
    return jax.jit(method.draw)(v.params, v.extra, v.frozen, batch, jax.random.key(seed), Progress.at(0, 10, 5))


@pytest.mark.parametrize(
    "argument, backbone, head",
    [("", 21_665_664, 5_517_568), (":variant=B/16", 85_798_656, 6_304_000)],
)
def test_parameter_counts(root, argument, backbone, head):
    method = registry.build(configs.load(str(root / "configs/msn/imagenet1k.py") + argument))
    batch = {name: jax.ShapeDtypeStruct(view.array(1), jnp.float32) for name, view in method.views().items()}
    v = jax.eval_shape(method.init, jax.random.key(0), batch)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(v.params["encoder"]) == backbone and size(v.params["head"]) == head
    assert size(v.params["prototypes"]) == 262_144 and size(v.extra["target"]) == backbone + head
    assert method.seen == {"": 166, ":variant=B/16": 137}[argument]


@pytest.mark.parametrize("variant", ["B/8", "B/4", "L/7"])
def test_the_larger_models_build(root, variant):
    method = registry.build(configs.load(str(root / f"configs/msn/imagenet1k.py:variant={variant}")))
    assert method.flops() > 0


@pytest.mark.parametrize("shared_drop", [True, False])
def test_all_images_lose_the_same_patches_or_each_its_own(shared_drop):
    method = tiny(whole_anchors=2, shared_drop=shared_drop)
    batch, v = started(method)
    noise = np.asarray(draws_of(method, batch, v)["noise"]).reshape(8, -1)
    rows = {tuple(np.argsort(row)[: method.seen]) for row in noise}
    assert len(rows) == (1 if shared_drop else 8) and method.seen == 12
    assert (noise[0] != np.asarray(draws_of(method, batch, v, seed=4)["noise"]).reshape(8, -1)[0]).any()


@pytest.mark.parametrize(
    "settings, shapes",
    [
        (dict(), [(1, (16, 24))]),
        (dict(whole_anchors=3, local_crops=2, local_size=(8, 8)), [(3, (16, 24)), (2, (8, 8))]),
        (dict(local_crops=2, local_size=(16, 24)), [(3, (16, 24))]),  # of one size: one pass, which drops patches
        (dict(patch_drop=0.0, head_norm="none", model=dict(drop_path_rate=0.3)), [(1, (16, 24))]),
    ],
)
def test_passes(settings, shapes):
    method = tiny(**settings)
    assert method.passes == shapes
    batch, v = started(method)
    progress = Progress.at(0, 10, 5)
    draws = draws_of(method, batch, v)
    loss, output = jax.jit(lambda: method.forward(v.params, v.extra, v.frozen, batch, draws, progress))()
    assert np.isfinite(loss) and output.trace["pred"].shape == (4, sum(n for n, _ in shapes), 6)
    assert output.trace["latent"].shape == (4, 1 + method.seen, 16)
    assert len(output.carry["anchor"]) == len(shapes)


def test_statistics_move_once_per_pass_and_the_target_follows():
    method = tiny(local_crops=2, local_size=(8, 8), ema_momentum=0.8)
    _, v = started(method)
    moments = lambda value: jax.tree.map(lambda x: jnp.full_like(x, value), v.extra["statistics"]["anchor"])  # noqa: E731
    carry = {"anchor": (moments(1.0), moments(2.0)), "target": (moments(3.0),)}
    params = jax.tree.map(lambda p: p + 1.0, v.params)
    output = type("Moved", (), {"carry": carry})
    extra = method.update(v.extra, params, output, Progress.at(50, 100, 10))
    np.testing.assert_allclose(extra["statistics"]["anchor"]["norm_0"]["mean"], 0.1 * 0.9 + 0.2, rtol=1e-5)
    np.testing.assert_allclose(extra["statistics"]["target"]["norm_1"]["var"], 0.9 + 0.3, rtol=1e-5)
    momentum = 0.8 + 0.2 * 0.5 / 1.25
    for name, value in flat(extra["target"]).items():
        before = flat(v.extra["target"])[name]
        np.testing.assert_allclose(value, before + (1 - momentum), rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_target_sees_the_second_crop_alone_and_gives_no_gradient():
    method = tiny()
    batch, v = started(method)
    progress, draws = Progress.at(0, 10, 5), draws_of(method, batch, v)
    run = jax.jit(lambda batch: method.forward(v.params, v.extra, v.frozen, batch, draws, progress)[1].trace)
    before, after = run(batch), run({**batch, "image2": batch["image2"] * 2.0 + 1.0})
    np.testing.assert_array_equal(before["pred"], after["pred"])
    assert (before["target"] != after["target"]).any()


def test_prototypes_take_no_weight_decay():
    table = group_table(tiny().param_groups(), started(tiny())[1].params)
    assert not table["prototypes"].decay and table["encoder/pos_embed"].decay and table["head/linear_0/kernel"].decay
    assert not table["head/norm_0/scale"].decay and not table["head/linear_2/bias"].decay


def test_evaluation_sees_the_target():
    method = tiny()
    batch, v = started(method)
    other = jax.tree.map(lambda p: p * 1.5, v.params)
    encode = jax.jit(lambda params, extra: method.encode(params, batch["image"], extra=extra).cls)
    np.testing.assert_array_equal(encode(other, v.extra), encode(v.params, v.extra))


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(patch_drop=1.0), "method.patch_drop 1.0 must lie between 0 and 1"),
        (dict(patch_drop=0.99), "method.patch_drop 0.99 leaves 0 of 24 patches visible"),
        (dict(whole_anchors=0), "method.whole_anchors 0 must be 1 or more"),
        (dict(prototypes=0), "method.prototypes 0 must be 1 or more"),
        (dict(head_norm="layer"), "method.head_norm 'layer'"),
        (dict(ema_momentum=1.5), "method.ema_momentum 1.5 must lie between 0 and 1, such as 0.996"),
        (dict(local_crops=1, local_size=(8, 10)), "method.local_size .*width must be a multiple of the patch of 4"),
        (dict(assignment=dict(temperature=-1.0)), "method.assignment.temperature -1.0 must be positive"),
        (dict(model=dict(cls_token=False)), "model.cls_token False leaves no class token"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tiny(**settings)


def test_the_larger_models_are_those_of_the_paper(root):
    with pytest.raises(ConfigError, match="variant=H/14 is not one of S/16"):
        configs.load(str(root / "configs/msn/imagenet1k.py:variant=H/14"))
