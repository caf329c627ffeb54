"""EVA-02's encoder (rotary positions, gated perceptrons with a norm, its start), against the authors' cases too."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop.case import read_safetensors
from mim_jax.interop.name_map import NameMap, to_ours
from mim_jax.interop.rules import PATCHES, dense, eva_block, norm, same
from mim_jax.methods.mae import MAE
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.rotary import rotary_table, rotate

EVA = dict(mlp="swiglu_exact", mlp_ratio=8 / 3, qkv_bias="qv", positions="learned", rope=4, init="eva02")
SUB_LN = dict(EVA, mlp_norm=True, attention_norm=True)
PLAIN = VitConfig((8, 12), 1, (4, 4), width=16, depth=2, heads=2, positions="learned")


def with_random(config, seed=0):
    """The module of a config, random parameters, images."""
    encoder, random = Vit(config), np.random.default_rng(seed)
    images = jnp.asarray(random.normal(size=(3, *config.image_size, config.channels)), jnp.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    return encoder, jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.4, s.shape), s.dtype), shapes), images


def worst(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def test_rotary_positions_against_complex_numbers():
    """Each pair is a complex number that turns by exp(i t f); a product depends on the distance alone."""
    grid, width, reference = (3, 5), 8, 6
    table = rotary_table(grid, width, reference)
    x = np.random.default_rng(0).normal(size=(2, 4, 15, width)).astype(np.float32)
    places = np.stack(np.meshgrid(*(np.arange(n) * reference / n for n in grid), indexing="ij"), -1).reshape(-1, 2)
    angles = np.concatenate([places[:, [axis]] * [1.0, 10000**-0.5] for axis in (0, 1)], axis=1)
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    expected = np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
    np.testing.assert_allclose(rotate(jnp.asarray(x), jnp.asarray(table)[:, None]), expected, atol=1e-5)
    assert rotate(jnp.asarray(x, jnp.bfloat16), jnp.asarray(table)[:, None]).dtype == jnp.bfloat16
    with pytest.raises(ConfigError, match="heads of width 6 must be a multiple of 4"):
        rotary_table(grid, 6, 3)


def test_rotary_positions_of_the_authors(shared):
    case = shared / "goldens" / "eva02" / "rope_same_grid"
    given, expected = np.load(case / "inputs.npz"), np.load(case / "outputs.npz")
    table = rotary_table((6, 6), 32, 6)
    for name, found in zip(("rope_cos", "rope_sin"), table, strict=True):
        np.testing.assert_allclose(found, expected[name], atol=1e-6)
    assert worst(rotate(jnp.asarray(given["tokens"]), jnp.asarray(table)[:, None]), expected["rotated"]) < 1e-6


@pytest.mark.parametrize("case", ["base_like_swiglu_subln_rope", "tiny_like_fused_qkv_swiglu_rope"])
def test_encoders_of_the_authors(shared, case):
    folder = shared / "goldens" / "eva02" / case
    c = json.loads((folder / "case.json").read_text())["config"]
    given, expected = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    sizes = dict(image_size=c["img_size"], patch_size=c["patch_size"], width=c["embed_dim"], depth=c["depth"])
    switches = EVA | dict(heads=c["num_heads"], mlp_norm=c["subln"], patch_gradient=0.1)
    config = VitConfig.from_section(sizes | switches)
    rules = (
        *same("cls_token", "cls_token"),
        *same("mask_token", "mask_token"),
        *same("pos_embed", "pos_embed"),
        *dense("patch_embed.proj", "patch_embed/proj", PATCHES),
        *eva_block("blocks.{i}", "blocks_{i}", c["subln"]),
        *norm("norm", "norm"),
    )
    names = NameMap(rules, ignored={"rope": "computed", "lm_head": "of the method"})
    encoder, axes = Vit(config, mask_token=True), dict(p=c["patch_size"], q=c["patch_size"], c=3)
    images = jnp.asarray(given["images"])
    like = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(jnp.asarray, to_ours(names, read_safetensors(folder / "weights.safetensors"), like, axes))
    with jax.default_matmul_precision("highest"):
        tokens, layers = encoder.apply({"params": params}, images, hidden=jnp.asarray(given["mask"]), layers=True)
    assert worst(tokens, expected["features"]) < 2e-6
    assert worst(jnp.stack(layers), expected["block_outputs"]) < 2e-6


@pytest.mark.parametrize("registers", [0, 2])
def test_visible_patches_keep_their_places(registers):
    """In any order; a patch that all others ignore changes nothing."""
    encoder, params, images = with_random(dataclasses.replace(PLAIN, **SUB_LN, registers=registers))
    everything = encoder.apply({"params": params}, images)[0]
    order = jnp.asarray([[5, 1, 0, 4, 2, 3], [0, 1, 2, 3, 4, 5], [2, 3, 5, 4, 1, 0]])
    shuffled = encoder.apply({"params": params}, images, order)[0]
    back = jnp.take_along_axis(shuffled[:, 1:], jnp.argsort(order, axis=1)[:, :, None], axis=1)
    np.testing.assert_allclose(shuffled[:, 0], everything[:, 0], atol=2e-5)
    np.testing.assert_allclose(back, everything[:, 1:], atol=2e-5)
    few = encoder.apply({"params": params}, images, order[:, :4])[0]
    valid = jnp.asarray([[True] * 4 + [False] * 2] * 3)
    np.testing.assert_allclose(encoder.apply({"params": params}, images, order, valid=valid)[0][:, :5], few, atol=2e-5)


def test_rotary_positions_act_on_patches_alone():
    config = dataclasses.replace(PLAIN, **SUB_LN, depth=1)
    encoder, params, images = with_random(config)
    plain = Vit(dataclasses.replace(config, rope=0)).apply({"params": params}, images)[0]
    turned = encoder.apply({"params": params}, images)[0]
    assert np.abs(turned[:, 1:] - plain[:, 1:]).max() > 1e-2
    first = jnp.zeros((3, 1), jnp.int32)  # the patch at the origin turns by 0
    one, other = (module.apply({"params": params}, images, first)[0] for module in (encoder, Vit(config)))
    np.testing.assert_array_equal(one, other)


def test_other_sizes_lie_between_the_places_of_the_reference():
    config = dataclasses.replace(PLAIN, **EVA)
    encoder, params, _ = with_random(config)
    assert encoder.apply({"params": params}, jnp.ones((1, 16, 20, 1)))[0].shape == (1, 21, 16)
    np.testing.assert_allclose(rotary_table((8, 8), 8, 4)[:, ::2][:, :4], rotary_table((4, 4), 8, 4)[:, :4], atol=1e-6)


@pytest.mark.parametrize("switches", [EVA, SUB_LN, dict(mlp_norm=True, rope=3, activation="quick_gelu")])
def test_flops_are_those_that_xla_counts(switches):
    config = VitConfig((32, 32), 3, (8, 8), width=64, depth=3, heads=4, **{"positions": "learned", **switches})
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(Vit(config, final_norm=False).init, jax.random.key(0), images)
    run = jax.jit(lambda p, x: Vit(config, final_norm=False).apply(p, x)[0])
    assert run.lower(params, images).cost_analysis()["flops"] == pytest.approx(vit_flops(config), rel=0.02)


def test_scanned_blocks_are_the_same_blocks():
    encoder, params, images = with_random(dataclasses.replace(PLAIN, **SUB_LN))
    scanned, visible = Vit(dataclasses.replace(PLAIN, **SUB_LN, scan=True, remat="full")), jnp.asarray([[0, 4]] * 3)
    expected, found = (m.apply({"params": params}, images, visible, layers=True) for m in (encoder, scanned))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), expected, found)


def test_the_patch_embedding_gets_a_tenth_of_its_gradient():
    plain, damped = (Vit(dataclasses.replace(PLAIN, **EVA, patch_gradient=share)) for share in (1.0, 0.1))
    _, params, images = with_random(plain.config)
    losses = (lambda p, m=m: jnp.sum(m.apply({"params": p}, images)[0] ** 3) for m in (plain, damped))
    (value, whole), (same_value, part) = (jax.value_and_grad(loss)(params) for loss in losses)
    assert value == same_value
    scaled = {**whole, "patch_embed": jax.tree.map(lambda g: 0.1 * g, whole["patch_embed"])}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), part, scaled)


@pytest.mark.parametrize("norms", [True, False])
def test_the_start(norms):
    """Xavier with the sizes of the authors' own layers; with a norm inside, some sqrt(ln(2 depth)) times as large."""
    switches = EVA | dict(mlp_norm=norms)
    config = VitConfig((32, 32), 3, (8, 8), width=256, depth=3, heads=4, **switches)
    block = Vit(config).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]["blocks_2"]
    gain, hidden = math.sqrt(math.log(6)) if norms else 1.0, int(256 * 8 / 3)
    parts = jnp.split(block["attn"]["qkv"]["kernel"], 3, axis=1)
    wide = (512, 512, 512) if norms else (1024,) * 3
    for part, fans, factor in zip(parts, wide, (1, 1, gain), strict=True):
        assert part.std() == pytest.approx(factor * (2 / fans) ** 0.5, rel=0.02)
    for part in jnp.split(block["mlp"]["fc1"]["kernel"], 2, axis=1):
        assert part.std() == pytest.approx(gain * (2 / (256 + hidden * (1 if norms else 2))) ** 0.5, rel=0.02)
    assert block["attn"]["proj"]["kernel"].std() == pytest.approx(gain * 512**-0.5 * 2**0.5, rel=0.02)
    assert block["mlp"]["fc2"]["kernel"].std() == pytest.approx(gain * (2 / (256 + hidden)) ** 0.5, rel=0.02)
    assert not any(block[branch][name]["bias"].any() for branch, name in [("mlp", "fc1"), ("attn", "proj")])
    if norms:
        assert (block["mlp"]["norm"]["scale"] == 1).all()


def test_a_method_trains_an_encoder_with_every_switch():
    """Every parameter gets a gradient; the decoder is of the same kind, without rotary positions."""
    method = MAE.tiny(**SUB_LN, patch_gradient=0.1)
    random, batch = np.random.default_rng(0), {"image": jax.random.normal(jax.random.key(0), (2, 16, 16, 3))}
    shapes = jax.eval_shape(method.init, jax.random.key(1), batch).params
    params = jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.4, s.shape), s.dtype), shapes)
    draws = method.draw(params, {}, {}, batch, jax.random.key(2), None)
    slopes = jax.jit(jax.grad(lambda p: method.forward(p, {}, {}, batch, draws, None)[0]))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
    "switches, words",
    [
        (dict(rope=-1), "model.rope -1 must be the side of a grid"),
        (dict(patch_gradient=1.5), "model.patch_gradient 1.5 between 0 and 1"),
        (dict(rope=16, width=24, heads=4), "over model.heads 4 is 6; take other heads"),
        (dict(mlp="swiglu_exact", activation="quick_gelu"), "model.mlp 'swiglu_exact' has no model.activation"),
    ],
)
def test_impossible_switches_are_refused(switches, words):
    with pytest.raises(ConfigError, match=words):
        VitConfig.from_section(switches)
