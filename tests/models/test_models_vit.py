"""The switches of a vision transformer that published teachers need, each against the plain network or numpy."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.methods.mae import MAE
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.mlp import Mlp, SwiGlu, swiglu_width

PLAIN = VitConfig((8, 12), 1, (4, 4), width=16, depth=2, heads=2, positions="learned")
SPECIAL = dict(registers=3, mlp="swiglu", pre_norm=True, patch_bias=False, projection=5)


def with_random(config, seed=0, **fields):
    """The module of a config, random parameters, images."""
    encoder, random = Vit(config, **fields), np.random.default_rng(seed)
    images = jnp.asarray(random.normal(size=(3, *config.image_size, config.channels)), jnp.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    return encoder, jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.4, s.shape), s.dtype), shapes), images


def test_the_plain_network_has_none_of_their_parameters():
    params = with_random(PLAIN)[1]
    assert set(params) == {"cls_token", "pos_embed", "patch_embed", "blocks_0", "blocks_1", "norm"}
    assert PLAIN.special == ()
    found = dataclasses.replace(PLAIN, **SPECIAL)
    assert set(found.special) == {"registers", "mlp", "pre_norm", "patch_bias", "projection"}
    assert set(with_random(found)[1]) - set(params) == {"register_tokens", "pre_norm", "projection"}


@pytest.mark.parametrize("cls_token", [True, False])
def test_registers_act_and_are_not_returned(cls_token):
    config = dataclasses.replace(PLAIN, registers=3, cls_token=cls_token)
    encoder, params, images = with_random(config)
    tokens, layers = encoder.apply({"params": params}, images, layers=True)
    assert tokens.shape == layers[0].shape == (3, 6 + cls_token, 16)
    moved = params | {"register_tokens": -params["register_tokens"]}
    assert np.abs(encoder.apply({"params": moved}, images)[0] - tokens).max() > 1e-3
    order = params | {"register_tokens": params["register_tokens"][:, ::-1]}  # they have no positions
    np.testing.assert_allclose(encoder.apply({"params": order}, images)[0], tokens, atol=1e-5)


def test_registers_beside_patches_that_only_fill_a_sequence_up():
    encoder, params, images = with_random(dataclasses.replace(PLAIN, registers=2), seed=1)
    visible = jnp.asarray([[0, 4], [1, 2], [5, 3]])
    valid = jnp.asarray([[True, True], [True, False], [True, True]])
    other = images.at[1, :, 8:].set(9.0)  # patches 2 and 5 of the second image
    first, second = (encoder.apply({"params": params}, x, visible, valid=valid)[0] for x in (images, other))
    assert first.shape == (3, 3, 16)
    np.testing.assert_allclose(first[1, :2], second[1, :2], atol=1e-6)
    assert np.abs(first[1, 2] - second[1, 2]).max() > 1e-3


def test_a_norm_before_the_blocks():
    config = dataclasses.replace(PLAIN, pre_norm=True)
    encoder, params, images = with_random(config)
    same = jax.tree.map(jnp.zeros_like, params["pre_norm"]) | {"bias": jnp.arange(16.0)}
    tokens = encoder.apply({"params": params | {"pre_norm": same}}, images)[0]
    np.testing.assert_allclose(tokens, jnp.broadcast_to(tokens[:1, :1], tokens.shape), atol=1e-4)


def test_the_projection_is_carried_and_not_applied():
    encoder, params, images = with_random(dataclasses.replace(PLAIN, projection=5))
    assert params["projection"].shape == (16, 5)
    rest = {name: leaf for name, leaf in params.items() if name != "projection"}
    tokens, plain = (e.apply({"params": p}, images)[0] for e, p in ((encoder, params), (Vit(PLAIN), rest)))
    np.testing.assert_array_equal(tokens, plain)


def test_perceptrons_against_numpy():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 3, 8)).astype(np.float32)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    layers = lambda hidden, wide: dict(  # noqa: E731
        fc1=dict(kernel=draw(8, wide), bias=draw(wide)), fc2=dict(kernel=draw(hidden, 8), bias=draw(8))
    )
    p = layers(12, 12)
    first = x @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    expected = first * sigmoid(1.702 * first) @ p["fc2"]["kernel"] + p["fc2"]["bias"]
    found = Mlp(12, activation="quick_gelu").apply({"params": p}, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert [swiglu_width(n) for n in (32, 36, 6144)] == [24, 24, 4096]
    p = layers(24, 48)
    gate, value = np.split(x @ p["fc1"]["kernel"] + p["fc1"]["bias"], 2, axis=-1)
    expected = gate * sigmoid(gate) * value @ p["fc2"]["kernel"] + p["fc2"]["bias"]
    found = SwiGlu(32).apply({"params": p}, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("switches", [SPECIAL, dict(activation="quick_gelu", patch_bias=False)])
def test_flops_are_those_that_xla_counts(switches):
    config = VitConfig((32, 32), 3, (8, 8), width=64, depth=3, heads=4, positions="learned", **switches)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(Vit(config, final_norm=False).init, jax.random.key(0), images)
    run = jax.jit(lambda p, x: Vit(config, final_norm=False).apply(p, x)[0])
    assert run.lower(params, images).cost_analysis()["flops"] == pytest.approx(vit_flops(config), rel=0.02)


def test_scanned_blocks_are_the_same_blocks():
    encoder, params, images = with_random(dataclasses.replace(PLAIN, **SPECIAL))
    scanned = Vit(dataclasses.replace(PLAIN, **SPECIAL, scan=True, remat="full"))
    expected, found = (module.apply({"params": params}, images, layers=True) for module in (encoder, scanned))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), expected, found)


def test_a_method_trains_an_encoder_with_every_switch():
    """The decoder sees no registers, and every parameter but the projection gets a gradient."""
    method = MAE.tiny(positions="learned", **SPECIAL)
    random, batch = np.random.default_rng(0), {"image": jax.random.normal(jax.random.key(0), (2, 16, 16, 3))}
    shapes = jax.eval_shape(method.init, jax.random.key(1), batch).params
    params = jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.4, s.shape), s.dtype), shapes)
    draws = method.draw(params, {}, {}, batch, jax.random.key(2), None)
    slopes = jax.jit(jax.grad(lambda p: method.forward(p, {}, {}, batch, draws, None)[0]))(params)
    still = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(slopes)
        if not np.any(leaf)
    }
    assert still == {"encoder/projection"}
    groups = method.param_groups()
    assert groups.layer("encoder/register_tokens") == groups.layer("encoder/pre_norm/scale") == 0


@pytest.mark.parametrize(
    "switches, words",
    [
        (dict(registers=-1), "registers and projection must be positive, or 0"),
        (dict(registers=1, relative_bias="shared"), "model.registers 1 have no place in the tables"),
        (dict(mlp="swiglu", activation="quick_gelu"), "model.mlp 'swiglu' has no model.activation 'quick_gelu'"),
        (dict(mlp="swigl"), "model.mlp 'swigl' .*swiglu"),
        (dict(activation="relu"), "model.activation 'relu'"),
        (dict(position_offset=0.1, position_antialias=True), "two ways to resize; take one"),
    ],
)
def test_impossible_switches_are_refused(switches, words):
    with pytest.raises(ConfigError, match=words):
        VitConfig.from_section(switches)
