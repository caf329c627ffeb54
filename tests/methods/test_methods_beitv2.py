"""BEiT v2 and its tokenizer: sizes, k-means, codes that follow, masks of an exact size, and what they refuse."""

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
from mim_jax.methods.beitv2 import BEiTv2
from mim_jax.methods.vqkd import VQKD
from mim_jax.nn.kmeans import spherical_kmeans, start_ids
from mim_jax.nn.vector_quantizer import follow_codes, unit


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(root, config):
    method = registry.build(configs.load(str(root / "configs" / config)))
    batch = {name: jax.ShapeDtypeStruct(view.array(1), jnp.float32) for name, view in method.views().items()}
    return jax.eval_shape(method.init, jax.random.key(0), batch)


@pytest.mark.parametrize("name", ["mim_cls_shared_head", "vqkd_kmeans_start", "vqkd_step"])
def test_reference_cases(shared, name):
    report = verify(shared / "goldens" / "beitv2" / name)
    assert report.ok and not report.footnotes and report.worst < 2e-5


@pytest.mark.parametrize("config, expected", [("", 106_143_056), (":variant=L/16", 336_728_512)])
def test_parameter_counts(root, config, expected):
    found = shapes(root, "beitv2/imagenet1k.py" + config)
    assert count(found.params) == expected
    if not config:  # as mmpretrain counts it: with the tokenizer's encoder, its two layers and the codes
        assert count(found.params) + count(found.frozen["tokenizer"]) == 192_809_840


@pytest.mark.parametrize("config, decoder", [("", 21_440_256), (":decoder_depth=1", 7_266_048)])
def test_parameter_counts_of_the_tokenizer(root, config, decoder):
    found = shapes(root, "vqkd/imagenet1k.py" + config)
    encoder = found.params["encoder"]
    assert (count(encoder["vit"]), count(encoder["task1"]) + count(encoder["task2"])) == (85_789_440, 615_200)
    assert (count(found.params["decoder"]["vit"]), count(found.params["decoder"])) == (decoder, decoder + 984_320)
    assert found.extra["codebook"].shape == (8192, 32)


def test_kmeans_finds_clusters_and_keeps_centres_that_nobody_wants():
    generator = np.random.default_rng(0)
    true = np.asarray(unit(jnp.asarray(generator.normal(size=(3, 8)).astype(np.float32))))
    vectors = unit(jnp.asarray(true.repeat(20, 0) + 0.05 * generator.normal(size=(60, 8)).astype(np.float32)))
    centres = np.asarray(spherical_kmeans(vectors, jnp.asarray([0, 20, 40, 40])))
    assert ((centres @ true.T).max(0) > 0.99).all()
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.0, rtol=1e-5)
    once = np.asarray(spherical_kmeans(vectors, jnp.asarray([0, 20, 40, 40]), iterations=1))
    np.testing.assert_array_equal(once[3], np.asarray(vectors)[40])  # the same start: ties go to the first
    ids = np.asarray(start_ids(jax.random.key(0), 50, 20))
    assert len(set(ids.tolist())) == 20 and start_ids(jax.random.key(0), 5, 20).max() < 5


def test_codes_follow_their_vectors():
    codes = unit(jax.random.normal(jax.random.key(0), (4, 6)))
    sums = jax.random.normal(jax.random.key(1), (4, 6))
    moved = np.asarray(follow_codes(codes, jnp.asarray([3.0, 0.0, 1.0, 2.0]), sums, 0.9))
    mean = np.asarray(sums)[0] / np.linalg.norm(np.asarray(sums)[0])
    expected = 0.9 * np.asarray(codes)[0] + 0.1 * mean
    np.testing.assert_allclose(moved[0], expected / np.linalg.norm(expected), rtol=1e-5)
    np.testing.assert_allclose(moved[1], codes[1], rtol=1e-5)


def test_masks_hide_exactly_as_many():
    method = BEiTv2.tiny((32, 32))
    hidden = jax.jit(lambda key: method.hidden(key, 64))(jax.random.key(0))
    assert (np.asarray(hidden).sum(1) == method.num_mask_patches).all() and len(np.unique(hidden, axis=0)) > 32


@pytest.mark.parametrize("settings", [dict(shared_head=False), dict(head_layers=0)])
def test_other_heads(settings):
    method = BEiTv2.tiny_of((16, 16), 3, {}, early_layers=1, **settings)
    batch = {name: jax.random.uniform(jax.random.key(1), view.array(2)) for name, view in method.views().items()}
    made = jax.jit(method.init)(jax.random.key(0), batch)
    assert ("aggregation_head" in made.params) == ("shared_head" in settings)
    _, output = jax.jit(method.loss)(made.params, {}, made.frozen, batch, jax.random.key(2), Progress.last())
    assert len(output.terms) == (1 if "head_layers" in settings else 2)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: BEiTv2.tiny_of((16, 16), 3, {}, early_layers=3), "method.early_layers 3 must be between 1"),
        (lambda: BEiTv2.tiny_of((16, 16), 3, {"cls_token": False}, early_layers=1), "model.cls_token must be true"),
        (lambda: VQKD.tiny(distance="plain"), "model.kind must be 'vqkd'"),
        (lambda: VQKD.tiny(heads=3), "model.heads 3 does not divide"),
    ],
)
def test_bad_settings(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()
