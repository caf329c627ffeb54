"""LocalMIM's form for Swin beyond its twin: visible cells alone, its taps, sizes, cost, and settings refused."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_case import Case, make_batch
from lowered_step import lower, products
from meshed_step import compiled as meshed

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.methods.base import Progress
from mim_jax.methods.localmim import LocalMIM
from mim_jax.methods.localmim_swin import LocalMIMSwin
from mim_jax.models.swin_config import swin_variant
from mim_jax.pretrain import check_all
from mim_jax.training import hlo
from mim_jax.training.groups import flat, group_table


@functools.cache
def case(**model):
    return Case(LocalMIM.tiny(arch="swin", **model))


def paper(size="B", window=7, **method):
    model = swin_variant("swin", size, (224, 224), window) | {"layer_norm_eps": 1e-6}
    return LocalMIM.from_config(model, method)


def test_hidden_pixels_reach_only_the_loss():
    tiny = case()
    loss, before = tiny.forward()
    hidden = before.trace["mask"].hidden.reshape(8, 4, 4)
    pixels = jnp.repeat(jnp.repeat(hidden, 4, 1), 4, 2)[..., None]
    image = tiny.batch["image"]
    other, after = tiny.forward(batch={**tiny.batch, "image": jnp.where(pixels, image * -3 + 7, image)})
    for tap in range(2):
        np.testing.assert_array_equal(before.trace[f"latent{tap}"], after.trace[f"latent{tap}"])
        np.testing.assert_array_equal(before.trace[f"pred{tap}"], after.trace[f"pred{tap}"])
    assert float(other) != float(loss)
    _, moved = tiny.forward(batch={**tiny.batch, "image": jnp.where(pixels, image, image * -3 + 7)})
    assert not np.allclose(before.trace["latent"], moved.trace["latent"])
    assert before.trace["latent"].shape == (8, 3, 32)  # 16 cells, int(0.75 * 16) + 1 hidden


def test_gradients_reach_every_parameter():
    large = case(image_size=(32, 32))  # of 16 cells three are visible, which may all be alone in their windows
    for name, gradient in large.loss_and_gradients()[1].items():
        assert np.isfinite(gradient).all() and (gradient != 0).any(), name


def test_bfloat16_and_what_it_multiplies():
    tiny, half = case(), LocalMIM.tiny(arch="swin", precision="bf16")
    loss, gradients = tiny.loss_and_gradients(half)
    np.testing.assert_allclose(loss, tiny.loss(), rtol=0.05)
    assert all(gradient.dtype == np.float32 and np.isfinite(gradient).all() for gradient in gradients.values())
    found = products(lower(half).lowered.as_text(debug_info=True))
    assert not [p for p in found if set(p.types) != {"bf16"} or p.widened]


@pytest.mark.slow
def test_devices_exchange_gradients_alone():
    program = lower(LocalMIM.tiny(arch="swin", precision="bf16")).compile().as_text()
    assert set(hlo.Program(program).traffic().collectives) == {"all-reduce"}


def test_a_step_on_many_devices_is_a_step_on_one():
    one, many = (meshed(LocalMIM.tiny(arch="swin"), **sizes) for sizes in ({}, {"data": -1}))
    (_, alone), (_, shared) = (run.step(run.state, run.batch) for run in (one, many))
    np.testing.assert_allclose(shared["loss"], alone["loss"], rtol=1e-5)
    np.testing.assert_allclose(shared["grad_norm"], alone["grad_norm"], rtol=1e-4)


def test_rectangles_and_odd_channels():
    wide = Case(LocalMIM.tiny((16, 24), 5, arch="swin"), batch=2)
    assert np.isfinite(wide.loss())
    upright = LocalMIM.tiny((24, 16), 1, arch="swin")
    batch = make_batch(upright, 2)

    def whole(key):
        v = upright.init(key, batch)
        loss, _ = upright.loss(v.params, v.extra, v.frozen, batch, key, Progress.last())
        return loss, upright.encode(v.params, batch["image"])

    loss, features = jax.eval_shape(whole, jax.random.key(0))
    assert loss.shape == () and features.grid == (6, 4) and features.patches.shape == (2, 24, 32)


def test_pixels_as_targets_and_pictures():
    settings = dict(target="norm_pix", decoder_width=16, decoder_heads=2)
    sizes = dict(arch="swin", image_size=16, patch_size=2, depths=(1, 1), heads=(1, 2), window_size=2, width=16)
    pixels = Case(LocalMIM.from_config(sizes, settings), batch=2)
    _, output = pixels.forward()
    assert output.trace["pred0"].shape == output.trace["pred1"].shape == (2, 16, 48)
    v = pixels.variables
    pictures = jax.jit(pixels.method.show)(v.params, v.extra, v.frozen, pixels.batch, jax.random.key(0))
    assert pictures.true_patch_statistics and set(pictures.panels) == {"input", "masked", "prediction", "pasted"}


def test_masks_of_a_batch_and_of_groups():
    hidden = case().draws["mask"].hidden
    np.testing.assert_array_equal(hidden, np.broadcast_to(hidden[:1], hidden.shape))
    grouped = paper(mask_group=2).mask(jax.random.key(0), 5)
    assert grouped.hidden.shape == (5, 49) and (grouped.hidden.sum(1) == 37).all()
    np.testing.assert_array_equal(grouped.hidden[:4:2], grouped.hidden[1:4:2])
    assert (grouped.hidden[0] != grouped.hidden[2]).any()


def test_one_mask_or_one_for_every_image_is_the_same_arithmetic():
    tiny = case()
    alone = dataclasses.replace(tiny.method, mask_group=1)
    np.testing.assert_allclose(tiny.loss(method=alone), tiny.loss(), rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "window", "method", "expected"),
    [
        # 86,741,176 and 5,632 of encoder and norms, the decoders the rest; the authors' modules count the same.
        ("B", 7, {}, 87_761_872),
        ("B", 7, {"target": "norm_pix"}, 88_641_592),
        ("L", 14, {}, 196_450_028),
    ],
)
def test_parameter_counts_and_shapes(size, window, method, expected):
    swin = paper(size, window, **method)
    assert (swin.seen, swin.hidden, swin.doublings) == (12, 37, (2, 1, 0, 0))
    assert [swin.tap_cell(tap) for tap in range(4)] == [(8, 8), (16, 16), (32, 32), (32, 32)]
    batch = {"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)}
    params = jax.eval_shape(swin.init, jax.random.key(0), batch).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    assert flat(params)["decoder_0/embed/kernel"].shape == (2 * swin.model.width, 64)


def test_flops_agree_with_the_compiler():
    swin = paper()
    batch = {"image": jax.ShapeDtypeStruct((4, 224, 224, 3), jnp.float32)}
    variables = jax.eval_shape(swin.init, jax.random.key(0), batch)

    def step(v, batch, key):
        loss = lambda p: swin.loss(p, v.extra, v.frozen, batch, key, Progress.last())[0]  # noqa: E731
        return jax.value_and_grad(loss)(v.params)

    lowered = jax.jit(step).lower(variables, batch, jax.eval_shape(lambda: jax.random.key(0)))
    assert lowered.cost_analysis()["flops"] / 4 == pytest.approx(swin.flops(), rel=0.02)


def test_no_decay_for_positions_and_tokens():
    tiny = case()
    table = group_table(tiny.method.param_groups(), tiny.variables.params, layer_decay=0.5)
    exempt = [n for n in table if n.endswith(("relative_bias/table", "mask_token"))]
    assert len(exempt) == 6 and not any(table[name].decay for name in exempt)
    assert table["encoder/stages_0/blocks_0/attn/qkv/kernel"].decay


@pytest.mark.parametrize(
    ("model", "method", "sentence"),
    [
        ({"arch": "swim"}, {}, "model.arch 'swim' is not known; did you mean 'swin'"),
        ({}, {"taps": (0, 1)}, "method.taps"),
        ({}, {"mask_ratio": 0.99}, "hides 49 of the 49 cells"),
        ({}, {"decoder_width": 36}, "must be a multiple of 8"),
        ({}, {"decoder_heads": 64, "decoder_width": 64}, "half of it one of"),
        ({}, {"mask_group": -1}, "method.mask_group -1"),
        ({}, {"places": "lists"}, "method.places 'lists' is not one of listed, true"),
    ],
)
def test_what_cannot_be_is_refused(model, method, sentence):
    with pytest.raises(ConfigError, match=sentence):
        LocalMIM.from_config({"arch": "swin"} | model, method)


@pytest.mark.parametrize("spec", ["imagenet1k.py:variant=swin-L", "cifar10.py:variant=swin-T"])
def test_configs_build(root, spec):
    method = check_all(configs.load(str(root / "configs" / "localmim" / spec)))
    assert isinstance(method, LocalMIMSwin) and method.places == "listed"
