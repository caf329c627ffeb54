"""CAE and CAE v2: sizes of the published models, what the loss is made of, and what is refused."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.losses.cosine import cosine_error
from mim_jax.methods import registry
from mim_jax.methods.base import Progress
from mim_jax.methods.cae import CAE
from mim_jax.methods.cae_v2 import CAEv2
from mim_jax.pretrain import check_all
from mim_jax.training.groups import group_table

COUNTS = {  # argument of the config -> encoder, regressor with its mask token, decoder, all that is trained
    "": (85_656_576, 28_368_384 + 768, 34_655_744, 148_681_472),
    ":variant=L/16": (303_124_480, 28_368_384 + 768, 34_655_744, 366_938_112),
    ":variant=L/16,decoder_width=1024": (303_124_480, 50_408_448, 58_787_840, 412_320_768),
}


def shapes(method):
    batch = {name: jax.ShapeDtypeStruct(view.array(1), jnp.float32) for name, view in method.views().items()}
    return jax.eval_shape(method.init, jax.random.key(0), batch)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("argument", COUNTS)
def test_parameter_counts(root, argument):
    method = registry.build(configs.load(str(root / "configs" / "cae" / "imagenet1k.py") + argument))
    variables = shapes(method)
    parts = [count(variables.params[name]) for name in ("encoder", "regressor", "decoder")]
    assert (*parts, count(variables.params)) == COUNTS[argument]
    assert count(variables.frozen) == 53_786_240
    assert method.sampler.count(method.model.tokens) == 98


def test_the_projection_takes_no_part_in_the_target():
    """Nothing of the encoder's pass over the hidden patches is differentiated."""
    method = CAE.tiny()
    batch = {name: jnp.zeros(view.array(4)) for name, view in method.views().items()}
    batch["image"] = jax.random.normal(jax.random.key(0), batch["image"].shape)
    batch["tokens"] = jnp.zeros((4, 16), jnp.int32)  # ids instead of pixels
    v = jax.jit(method.init)(jax.random.key(1), batch)
    draws = method.draw(v.params, {}, v.frozen, batch, jax.random.key(2), Progress.last())

    def target(params):
        return method.forward(params, {}, v.frozen, batch, draws, Progress.last())[1].trace["target"].sum()

    gradient, (loss, output) = jax.jit(
        lambda p: (jax.grad(target)(p), method.forward(p, {}, v.frozen, batch, draws, Progress.last()))
    )(v.params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    t = output.trace
    logits = np.asarray(t["pred"], np.float64)
    ids = np.log(np.exp(logits).sum(-1)) - logits[:, 0]
    align = 2 * np.square(np.asarray(t["predicted"], np.float64) - t["target"]).mean()
    np.testing.assert_allclose(loss, ids.mean() + align, rtol=1e-5)
    np.testing.assert_allclose(output.terms["align"], align, rtol=1e-5)
    assert output.weight == 32 and t["latent"].shape == (4, 9, 16) and t["target"].shape == (4, 8, 12)


def test_class_and_mask_token_take_weight_decay():
    method = CAE.tiny()
    table = group_table(method.param_groups(), shapes(method).params)
    assert table["encoder/cls_token"].decay and table["regressor/mask_token"].decay
    assert not table["encoder/blocks_0/gamma_1"].decay and not table["regressor/blocks_0/attn/q_bias"].decay


def test_every_pass_draws_its_own_drop_path():
    method = CAE.tiny(drop_path_rate=0.1)
    batch = {"image": jnp.zeros((2, 16, 16, 3))}
    paths = method.draw({}, {}, {}, batch, jax.random.key(0), Progress.last())["drop_path"]
    assert {name: noise.shape for name, noise in paths.items()} == {
        "encoder": (2, 2, 2),
        "target": (2, 2, 2),
        "regressor": (2, 2, 2),
        "decoder": (2, 1, 2),
    }
    assert (paths["encoder"] != paths["target"]).all()


def test_cosine_error():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 7))
    expected = 1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(cosine_error(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-5)
    gradient = jax.grad(lambda x: cosine_error(x, jnp.ones((1, 7))).sum())(jnp.zeros((1, 7)))
    assert np.isfinite(gradient).all()


def test_v2_predicts_the_directions_of_the_teachers_tokens():
    method = CAEv2.tiny()
    batch = {name: jax.random.uniform(jax.random.key(3), view.array(4)) for name, view in method.views().items()}
    v = jax.jit(method.init)(jax.random.key(1), batch)
    assert set(v.params["decoder"]) == {"norm", "head"} and "norm" not in v.params["regressor"]
    assert set(v.frozen) == {"teacher", "projection"}
    args = (v.params, {}, v.frozen, batch, jax.random.key(2), Progress.last())
    loss, output = jax.jit(method.loss)(*args)
    t = output.trace
    assert t["pred"].shape == t["target"].shape == (4, 16, 6) and output.weight == 4 * 17
    per_patch = 1 - (t["pred"] * t["target"]).sum(-1) / np.linalg.norm(t["pred"], axis=-1) / np.linalg.norm(
        t["target"], axis=-1
    )
    np.testing.assert_allclose(t["loss_per_patch"], per_patch, atol=1e-5)
    target = method.teacher.tokens(v.frozen, batch["teacher"])
    np.testing.assert_allclose(target[:, 1:], t["target"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "cls, method, words",
    [
        (CAE, dict(decoder_depth=0), "decoder_depth 0 must be at least 1"),
        (CAE, dict(min_block=500), "min_block 500 must be between"),
        (CAE, dict(tokenizer=dict(image_size=64)), "makes 8 x 8 tokens"),
        (CAEv2, dict(teacher=dict(modl={})), "teacher.modl is not a setting .* did you mean 'model'"),
        (CAEv2, dict(teacher=dict(model=dict(patch_size=32))), "the same grid"),
        (CAEv2, dict(teacher=dict(mean=(0.5,))), "teacher.mean needs 3 values"),
        (CAEv2, dict(teacher=dict(model=dict(cls_token=False))), "cls_token must be true"),
    ],
)
def test_impossible_settings(cls, method, words):
    with pytest.raises(ConfigError, match=words):
        cls.from_config({}, method)


def test_every_published_row_with_a_config_builds(root):
    rows = json.loads((root / "results" / "cae.json").read_text())["published"]
    for spec in {row["config"] for row in rows if row["config"].startswith("configs/cae/")}:
        assert check_all(configs.load(str(root / spec))).name == "cae"
    for row in rows:
        assert {"paper", "table", "model", "data", "metric", "value", "source", "certainty"} <= set(row)


@pytest.mark.parametrize("name", ["cae/cifar10", "cae_v2/cifar10", "cae_v2/imagenet1k"])
def test_further_configs_build(root, name):
    check_all(configs.load(str(root / "configs" / f"{name}.py")))
