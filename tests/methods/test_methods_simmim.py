"""SimMIM beyond the contract: both Swin encoders, parameter counts, targets, groups, published rows."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.methods.base import Progress
from mim_jax.methods.hierarchical import last_tokens
from mim_jax.methods.simmim import VIT, SimMIM
from mim_jax.models.vit_config import variant
from mim_jax.pretrain import check_all
from mim_jax.targets.local_norm import local_norm
from mim_jax.training.groups import flat, group_table


def test_parameter_counts():
    simmim = SimMIM.from_config(variant("B/16", **VIT), {})
    batch = {"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)}
    params = jax.eval_shape(simmim.init, jax.random.key(0), batch).params
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert (size(params["encoder"]), size(params["head"])) == (85_666_128, 590_592)  # the card
    bound = flat(params)["encoder/relative_bias/table"].shape
    assert bound == (27 * 27 + 3, 12)


@functools.cache
def tried(arch, **model):
    """A tiny method whose weights are far from their start (version 2 starts as the identity), and one loss."""
    simmim = SimMIM.tiny((16, 24), arch=arch, **model)
    batch = {"image": jax.random.normal(jax.random.key(0), (4, 16, 24, 3))}
    params = jax.jit(simmim.init)(jax.random.key(1), batch).params
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, moved)
    draws = simmim.draw(params, {}, {}, batch, jax.random.key(3), Progress.last())
    return simmim, params, batch, draws, jax.jit(lambda p, b, d: simmim.forward(p, {}, {}, b, d, Progress.last()))


@pytest.mark.parametrize("arch", ["swin", "swinv2"])
def test_hidden_pixels_reach_only_the_loss(arch):
    _, params, batch, draws, forward = tried(arch)
    loss, output = forward(params, batch, draws)
    hidden = draws["mask"].hidden.reshape(4, 8, 12)
    pixels = jnp.repeat(jnp.repeat(hidden, 2, 1), 2, 2)[..., None]
    changed, other = forward(params, {"image": jnp.where(pixels, 9.0, batch["image"])}, draws)
    np.testing.assert_array_equal(other.trace["latent"], output.trace["latent"])
    assert float(changed) > 2 * float(loss)
    visible, other = forward(params, {"image": jnp.where(pixels, batch["image"], 9.0)}, draws)
    assert not np.allclose(other.trace["latent"], output.trace["latent"])
    error = np.abs(output.trace["reconstruction"] - batch["image"])
    expected = np.where(pixels, error, 0).sum() / (np.asarray(pixels).sum() + 1e-5) / 3
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("arch", ["swin", "swinv2"])
def test_gradients_reach_every_parameter_with_remat_too(arch):
    _, params, batch, draws, forward = tried(arch)
    remat = SimMIM.tiny((16, 24), arch=arch, remat="full", drop_path_rate=0.0)
    plain = jax.jit(jax.grad(lambda p: forward(p, batch, draws)[0]))(params)
    again = jax.jit(jax.grad(lambda p: remat.forward(p, {}, {}, batch, draws, Progress.last())[0]))(params)
    for name, gradient in flat(plain).items():
        assert bool((gradient != 0).any()), name
        np.testing.assert_allclose(flat(again)[name], gradient, rtol=1e-3, atol=1e-6, err_msg=name)


def test_drop_path_follows_the_draws():
    simmim, params, batch, draws, forward = tried("swin", drop_path_rate=0.5)
    assert draws["drop_path"].shape == (4, 4, 2)
    keep = {**draws, "drop_path": draws["drop_path"].at[0].set(1.0).at[1].set(0.0)}
    _, output = forward(params, batch, keep)
    _, other = forward(params, batch, {**keep, "drop_path": keep["drop_path"].at[1].set(1.0)})
    np.testing.assert_array_equal(output.trace["latent"][0], other.trace["latent"][0])
    assert not np.allclose(output.trace["latent"][1], other.trace["latent"][1])


def test_features_of_swin():
    simmim, params, batch, _, _ = tried("swin")
    features = jax.jit(lambda p, x: simmim.encode(p, x, layers=True))(params, batch["image"])
    assert features.cls is None and features.grid == (4, 6) and features.patches.shape == (4, 24, 32)
    assert [x.shape[1:] for x in features.layers] == [(96, 16), (96, 16), (24, 32), (24, 32)]
    np.testing.assert_allclose(features.pooled, features.patches.mean(1), rtol=1e-5)


def test_local_norm_is_the_target_and_is_undone_in_pictures():
    sizes = dict(image_size=16, patch_size=4, width=8, depth=1, heads=2)
    simmim = SimMIM.from_config(sizes, dict(mask_unit=8, target="local_norm", target_window=5))
    batch = {"image": jax.random.normal(jax.random.key(0), (2, 16, 16, 3)) + 2.0}
    params = jax.jit(simmim.init)(jax.random.key(1), batch).params
    _, output = jax.jit(simmim.loss)(params, {}, {}, batch, jax.random.key(2), Progress.last())
    np.testing.assert_allclose(output.trace["target"], local_norm(batch["image"], 5), rtol=1e-5)
    pictures = jax.jit(simmim.show)(params, {}, {}, batch, jax.random.key(2))
    assert pictures.true_patch_statistics
    hidden = np.repeat(np.repeat(output.trace["mask"].hidden.reshape(2, 4, 4), 4, 1), 4, 2)
    pasted = np.asarray(pictures.panels["pasted"])
    np.testing.assert_allclose(pasted[~hidden], batch["image"][~hidden], rtol=1e-5)
    # A small prediction stands for the local mean.
    assert np.abs(pasted[hidden].mean() - 2.0) < 0.5


@pytest.mark.parametrize("arch, decayed, exempt", [("vit", "mask_token", "cls_token"), ("swinv2", "", "mask_token")])
def test_position_tables_are_decayed_in_pretraining(arch, decayed, exempt):
    simmim = SimMIM.tiny(arch=arch)
    params = jax.eval_shape(simmim.init, jax.random.key(0), {"image": jnp.zeros((1, 16, 16, 3))}).params
    table = group_table(simmim.param_groups(), params)
    assert not table[f"encoder/{exempt}"].decay
    assert not decayed or table[f"encoder/{decayed}"].decay
    positions = [n for n in table if n.endswith(("relative_bias/table", "logit_scale", "position_mlp/fc1/kernel"))]
    assert positions and all(table[name].decay for name in positions)


@pytest.mark.parametrize(
    "model, method, words",
    [
        (dict(arch="swinv3"), {}, "model.arch 'swinv3' is not known; did you mean 'swinv2'"),
        (dict(arch="swin", widht=3), {}, "model.widht is not a setting of SwinConfig; did you mean 'width'"),
        (dict(arch="swin", window_size=5), {}, "windows of 5 x 5 do not tile"),
        (dict(image_size=64), dict(mask_unit=24), "mask_unit 24 must be a multiple of the patch height 16"),
        ({}, dict(mask_unit=48), "mask_unit 48 .*divide the image height 224; nearest that is both: 32"),
        ({}, dict(target="pixels"), "method.target 'pixels' is not one of pixel, local_norm"),
        ({}, dict(target_window=46), "target_window 46 must be odd"),
        ({}, dict(mask_ratio=1.5), "mask_ratio 1.5 must lie between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(model, method, words):
    with pytest.raises(ConfigError, match=words):
        SimMIM.from_config(model, method)


def test_every_published_row_with_a_config_builds(root):
    rows = json.loads((root / "results" / "simmim.json").read_text())["published"]
    specs = {row["config"] for row in rows if row["config"]}
    assert len(specs) > 40
    for spec in specs:
        check_all(configs.load(str(root / spec)))


@pytest.mark.parametrize("argument", ["", ":variant=swin-T", ":variant=swinv2-T,epochs=10"])
def test_cifar_configs_build(root, argument):
    method = check_all(configs.load(str(root / "configs" / "simmim" / "cifar10.py") + argument))
    assert last_tokens(method.model)[1] == ((4, 4) if not argument else (8, 8))


def test_length_in_iterations(root):
    spec = str(root / "configs/simmim/imagenet1k.py:variant=swinv2-S,iterations=125000,fraction=0.2")
    config = configs.load(spec)
    steps_per_epoch = round(0.2 * 1_281_167) // config.training.batch_size
    assert round(config.training.epochs * steps_per_epoch) == 125_000
    assert config.data.fraction == 0.2 and config.method.target == "local_norm"
