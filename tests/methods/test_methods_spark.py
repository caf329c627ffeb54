"""SparK beyond the contract: the card's numbers, running statistics, both encoders, reference cases, configs."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.interop.verify import verify
from mim_jax.masking.random import random_mask, visible_count
from mim_jax.methods import registry
from mim_jax.methods.base import Progress
from mim_jax.methods.spark import SparK
from mim_jax.models.conv_config import variant
from mim_jax.pretrain import check_all
from mim_jax.training.groups import flat, group_table

COUNTS = {  # encoder without head, densify, decoder: the card; timm's sizes less their classifiers
    "resnet50": (23_508_032, 6_230_688, 23_183_115),
    "convnext_small": (49_453_152, 1_746_816, 23_183_115),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    spark = SparK.from_config(variant(name), {})
    batch = {"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)}
    variables = jax.eval_shape(spark.init, jax.random.key(0), batch)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert tuple(size(variables.params[part]) for part in ("encoder", "densify", "decoder")) == COUNTS[name]
    assert size(variables.params) == sum(COUNTS[name])
    table = group_table(spark.param_groups(), variables.params)
    decayed = {path for path, group in table.items() if group.decay}
    assert decayed == {path for path in table if path.endswith("/kernel")}


def test_cells_are_rounded_not_truncated():
    assert visible_count(49, 0.6, to_int=round) == 20 and visible_count(49, 0.6) == 19
    assert visible_count(9, 0.5, to_int=round) == 4 and visible_count(5, 0.5, to_int=round) == 2  # halves to even
    mask = random_mask(jax.random.key(0), 6, (7, 7), 0.6, round)
    assert (mask.hidden.sum(1) == 29).all() and mask.visible.shape == (6, 20)


@pytest.fixture(scope="module", params=["resnet", "convnext"])
def made(request):
    """A small method, its variables and batch, and its compiled loss for given images."""
    spark = SparK.tiny((16, 24), arch=request.param, drop_path_rate=0.3)
    images = jax.random.normal(jax.random.key(0), (4, 16, 24, 3))
    variables = jax.jit(spark.init)(jax.random.key(1), {"image": images})
    draws = spark.draw(variables.params, {}, {}, {"image": images}, jax.random.key(2), Progress.last())
    run = jax.jit(lambda x: spark.forward(variables.params, variables.extra, {}, {"image": x}, draws, Progress.last()))
    return spark, variables, images, draws["mask"], run


def test_hidden_pixels_reach_the_loss_through_the_target_only(made):
    spark, _, images, mask, run = made
    height, width = spark.model.cell
    places = jnp.repeat(jnp.repeat(mask.hidden.reshape(-1, *mask.grid), height, 1), width, 2)[..., None]
    (loss, before), (other, after) = run(images), run(jnp.where(places, 5 - 2 * images**2, images))
    assert loss != other
    np.testing.assert_array_equal(before.trace["pred"], after.trace["pred"])
    jax.tree.map(np.testing.assert_array_equal, before.carry, after.carry)
    per_patch = np.asarray(before.trace["loss_per_patch"], np.float64)
    np.testing.assert_allclose(loss, per_patch[np.asarray(mask.hidden)].mean(), rtol=1e-6)
    assert before.weight == mask.hidden.sum()


def test_running_statistics_move_by_a_tenth_of_the_batch(made):
    spark, variables, images, _, run = made
    _, output = run(images)
    extra = spark.update(variables.extra, variables.params, output, Progress.last())
    assert set(extra) == {"decoder"} | ({"encoder", "densify"} if spark.model.arch == "resnet" else set())
    for path, value in flat(extra).items():
        start = 0.0 if path.endswith("mean") else 1.0
        np.testing.assert_allclose(value, 0.9 * start + 0.1 * flat(output.carry)[path], rtol=1e-5, atol=1e-7)
    assert any(np.abs(value).max() > 1e-3 for path, value in flat(extra).items() if path.endswith("mean"))


def test_encode_reads_the_running_statistics(made):
    spark, variables, images, _, run = made
    encode = lambda extra, x: jax.jit(lambda e: spark.encode(variables.params, x, extra=e, layers=True))(extra)  # noqa: E731
    features = encode(variables.extra, images)
    alone = encode(variables.extra, images[:1])
    np.testing.assert_allclose(features.patches[:1], alone.patches, rtol=1e-4, atol=1e-5)
    assert features.cls is None and features.grid == spark.model.grid
    assert [x.shape[1] for x in features.layers] == [8 * 12, 4 * 6]
    moved = encode(spark.update(variables.extra, variables.params, run(images)[1], Progress.last()), images)
    batch = encode(None, images)
    same = spark.model.arch == "convnext"  # its encoder has no batch norm
    assert np.allclose(moved.patches, features.patches) == same
    assert np.allclose(batch.patches, features.patches) == same


def test_a_map_at_full_resolution_has_no_place_in_the_decoder():
    spark = SparK.from_config(
        dict(image_size=8, width=(2, 3, 4), depth=(1, 1, 1), stem_stride=1), dict(decoder_width=4)
    )
    batch = {"image": jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)}
    params = jax.eval_shape(spark.init, jax.random.key(0), batch).params
    assert "mask_token_1" in params["densify"] and "mask_token_2" not in params["densify"]
    assert set(params["decoder"]) == {"blocks_0", "blocks_1", "proj"}


def test_a_smallest_map_as_wide_as_the_decoder_is_not_projected():
    spark = SparK.from_config(
        dict(arch="convnext", image_size=8, width=(2, 4), depth=(1, 1), stem_stride=1), dict(decoder_width=4)
    )
    batch = {"image": jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)}
    assert "proj_0" not in jax.eval_shape(spark.init, jax.random.key(0), batch).params["densify"]


@pytest.mark.parametrize(
    "model, method, sentence",
    [
        ({}, dict(mask_ratio=0.995), "method.mask_ratio 0.995 leaves 0 of 49 patches visible"),
        ({}, dict(mask_ratio=0.001), "method.mask_ratio 0.001 leaves 49 of 49 patches visible"),
        ({}, dict(densify_norm="gn"), "method.densify_norm 'gn' is not one of auto, bn, ln, none"),
        ({}, dict(decoder_width=16), "method.decoder_width 16 is halved 5 times .* at least 32"),
        (dict(width=(4,), depth=(1,), stem_stride=1), {}, "leaves nothing to upsample"),
        (dict(image_size=(224, 230)), {}, "does not divide the image width of 230"),
    ],
)
def test_impossible_settings(model, method, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SparK.from_config(model, method)


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_reference_cases(shared, name):
    """About four times what a CPU showed, far below the cases' tolerance."""
    report = verify(shared / "goldens" / "spark" / name)
    assert report.ok and report.worst < 1e-5
    assert sum(row.name.startswith("after.") for row in report.rows) > 15


def test_every_published_row_with_a_config_builds(root):
    rows = json.loads((root / "results" / "spark.json").read_text())["published"]
    for row in rows:
        assert {"paper", "table", "model", "data", "metric", "value", "source", "certainty"} <= set(row)
        assert row["config"] or row["note"]
        if row["config"]:
            config = configs.load(str(root / row["config"]))
            assert check_all(config) == registry.build(config)


@pytest.mark.parametrize("argument", ["", ":variant=convnext_tiny", ":variant=resnet50,stem_stride=2"])
def test_cifar10_config_builds(root, argument):
    assert check_all(configs.load(str(root / "configs" / "spark" / "cifar10.py") + argument)).name == "spark"
