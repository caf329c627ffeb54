"""AttMask: its masks against numpy, its teacher that runs once, the size of its models, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError, VerifyError
from mim_jax.interop.verify import discover, verify
from mim_jax.masking.attention_guided import AttentionGuided, most_attended, some_of
from mim_jax.methods import registry
from mim_jax.methods.attmask import AttMask
from mim_jax.methods.base import Progress
from mim_jax.models.attention_map import cls_attention, tokens_and_attention


@pytest.mark.parametrize("name", ["high", "hint"])
def test_reference_case(shared, name):
    report = verify(shared / "goldens" / "attmask" / name)
    assert report.ok and not report.footnotes and report.worst < 1e-6


def test_no_case_is_left_out(shared):
    assert {path.name for path in discover(shared / "goldens" / "attmask")} == {"high", "hint"}


def altered(shared, tmp_path, name, **values):
    folder = shutil.copytree(shared / "goldens" / "attmask" / name, tmp_path / "attmask" / name)
    content = json.loads((folder / "case.json").read_text())
    content["config"] |= values
    folder.joinpath("case.json").chmod(0o644)
    (folder / "case.json").write_text(json.dumps(content))
    return folder


def test_a_changed_case_fails(shared, tmp_path):
    report = verify(altered(shared, tmp_path, "high", masking_prob=0.8))
    failed = {row.name for row in report.rows if not row.ok}
    assert "mask" in failed and "hidden patches per crop" in failed and "mask_all_images" not in failed
    with pytest.raises(VerifyError, match="config.mode 'attmask_top' is none of attmask_high"):
        verify(altered(shared, tmp_path / "mode", "high", mode="attmask_top"))
    with pytest.raises(VerifyError, match="attention of shape .* but the config says"):
        verify(altered(shared, tmp_path / "grid", "hint", grid=5))


@pytest.mark.parametrize("least", [False, True])
def test_the_most_or_least_attended_against_numpy(least):
    attention = np.random.default_rng(0).random((5, 20)).astype(np.float32)
    attention[0, 3] = attention[0, 11]  # of equals the first
    counts = np.array([0, 1, 7, 19, 20], np.int32)
    found = np.asarray(most_attended(jnp.asarray(attention), jnp.asarray(counts), least))
    for row, count, hidden in zip(attention, counts, found, strict=True):
        expected = np.argsort(row if least else -row, kind="stable")[:count]
        assert set(np.flatnonzero(hidden)) == set(expected.tolist())


def test_some_of_takes_only_what_is_there():
    noise = jax.random.uniform(jax.random.key(0), (3, 10))
    among = jnp.arange(10)[None] < jnp.array([4, 2, 0])[:, None]
    chosen = some_of(noise, among, 3)
    assert not (chosen & ~among).any()
    np.testing.assert_array_equal(chosen.sum(1), [3, 2, 0])


def drawn(guide, images=4000, tokens=25):
    attention = jax.random.uniform(jax.random.key(5), (images, 2, tokens))
    return attention, np.asarray(jax.jit(guide.draw)(jax.random.key(6), attention))


def test_a_share_of_the_crops_is_masked_and_each_crop_by_itself():
    _, hidden = drawn(AttentionGuided(masked_share=0.3))
    masked = hidden.any(2)
    assert masked.mean() == pytest.approx(0.3, abs=0.02)
    assert (masked[:, 0] & masked[:, 1]).mean() == pytest.approx(0.09, abs=0.015)


def test_images_of_a_group_share_their_ratio():
    _, hidden = drawn(AttentionGuided(masked_share=1.0, group=8), images=804)
    counts = hidden.sum(2)
    groups = [counts[i : i + 8] for i in range(0, 804, 8)]
    assert all(len(np.unique(group)) == 1 for group in groups) and len(groups[-1]) == 4
    assert set(np.unique(counts)) == set(range(2, 13))  # floor(25 r) of r from 0.1 to 0.5
    assert len(np.unique(drawn(AttentionGuided(masked_share=1.0), images=50)[1].sum(2))) == 1


def test_hints_are_shown_of_the_most_attended_alone():
    guide = AttentionGuided("hint", 0.6, 0.0, masked_share=1.0, hint_share=0.4)
    attention, hidden = drawn(guide, images=500)
    rank = np.argsort(np.argsort(-np.asarray(attention), axis=2), axis=2)
    assert hidden[(rank >= 10) & (rank < 15)].all() and not hidden[rank >= 15].any()
    np.testing.assert_array_equal((~hidden & (rank < 10)).sum(2), int(25 * 0.4 * 0.6))
    shown = [(~hidden[rank == place]).mean() for place in range(10)]
    np.testing.assert_allclose(shown, 0.6, atol=0.08)  # each as likely


def test_nothing_is_hidden_before_masking_starts():
    attention = jnp.ones((3, 2, 9))
    for mode in ("high", "hint", "low"):
        assert not AttentionGuided(mode, hint_share=0.5).draw(jax.random.key(0), attention, 0.0).any()


def started(method, batch=4):
    images = {
        name: jax.random.normal(jax.random.key(n), shape.array(batch))
        for n, (name, shape) in enumerate(method.views().items())
    }
    return images, jax.jit(method.init)(jax.random.key(1), images)


def test_one_pass_gives_what_two_do():
    method = AttMask.tiny((16, 24), scan=True, registers=2)
    batch, v = started(method)
    config, params = method.modules(teacher=True)[0].config, v.extra["teacher"]["encoder"]
    tokens, attention = jax.jit(tokens_and_attention, static_argnums=0)(config, params, batch["image"])
    np.testing.assert_allclose(tokens, method.networks(v.extra["teacher"], True)[0](batch["image"]), atol=1e-5)
    np.testing.assert_allclose(attention.reshape(-1, 4, 6), cls_attention(config, params, batch["image"]), rtol=1e-5)


def test_what_the_teacher_attends_to_is_hidden_and_it_runs_once():
    method = dataclasses.replace(AttMask.tiny(), masking="low", masked_share=1.0)
    batch, v = started(method)
    progress = Progress.at(0, 10, 5)
    draws = jax.jit(method.draw)(v.params, v.extra, v.frozen, batch, jax.random.key(3), progress)
    for crop, name in enumerate(("image", "image2")):
        attention = np.asarray(cls_attention(method.model, v.extra["teacher"]["encoder"], batch[name])).reshape(4, -1)
        for row, hidden in zip(attention, np.asarray(draws["hidden"][:, crop]), strict=True):
            assert row[hidden].max() < row[~hidden].min()
    other = draws | {"teacher_tokens": draws["teacher_tokens"] + 1.0}
    run = jax.jit(lambda draws: method.forward(v.params, v.extra, v.frozen, batch, draws, progress)[1].trace)
    assert (run(draws)["teacher_cls"] != run(other)["teacher_cls"]).any()


@pytest.mark.parametrize("arguments", ["", ":masking=hint", ":epochs=300", ":part=20,source=folder:few"])
def test_published_runs_have_the_sizes_of_the_card(root, arguments):
    method = registry.build(configs.load(str(root / "configs/attmask/imagenet1k.py") + arguments))
    batch = {name: jax.ShapeDtypeStruct(view.array(1), jnp.float32) for name, view in method.views().items()}
    v = jax.eval_shape(method.init, jax.random.key(0), batch)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(v.params["encoder"]) == 21_665_664 + 384 and size(v.params["head"]) == 7_614_720
    assert size(v.extra["teacher"]) == 21_665_664 + 7_614_720


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(masking="block"), "method.masking 'block' is not one of high, hint, low"),
        (dict(mask_ratio=0.0), "method.mask_ratio 0.0 must lie between 0 and 1"),
        (dict(mask_ratio=0.1, mask_ratio_spread=0.2), "method.mask_ratio_spread 0.2 .*the largest is 0.1"),
        (dict(mask_ratio=0.01, mask_ratio_spread=0.0), "method.mask_ratio 0.01 never hides one of 16 patches"),
        (dict(masked_share=0.0), "method.masked_share 0.0 must be above 0"),
        (dict(masking="hint", hint_share=0.05), "method.hint_share 0.05 of 16 patches is none"),
        (dict(mask_group=-1), "method.mask_group -1"),
        (dict(mask_start_epoch=-1), "method.mask_start_epoch -1 must be 0 or more"),
        (dict(ema_momentum=2.0), "method.ema_momentum 2.0"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        AttMask.tiny_of((16, 16), 3, {}, **settings)


def test_twenty_percent_need_a_source(root):
    with pytest.raises(ConfigError, match="part=20 .* give their source"):
        configs.load(str(root / "configs/attmask/imagenet1k.py:part=20"))
