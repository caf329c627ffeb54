"""The worked example of docs/adding_a_method.md is a method like any other: it keeps the contract, and it trains."""

from __future__ import annotations

import json
import math

import jax
import numpy as np
import pytest
import test_contract_arithmetic as arithmetic
import test_contract_masking as masking
from contract_case import Case

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.methods.registry import METHODS, method_class
from mim_jax.pretrain import check_all, pretrain
from mim_jax.report.show import show_run

SMALL = ["model.depth=1", "model.width=16", "model.heads=2", "training.batch_size=256", "mesh.data=1", "mesh.fsdp=8"]
SMALL += ["training.evaluate.knn_every_epochs=0", "training.evaluate.pictures_every_epochs=0"]


@pytest.fixture(scope="module")
def examples(root):
    return root / "docs" / "examples"


@pytest.fixture(scope="module")
def cls(examples):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(examples)
        patch.setitem(METHODS, "mosaic", "mosaic:Mosaic")  # the line of the registry
        yield method_class("mosaic")


@pytest.fixture(scope="module")
def case(cls):
    return Case(cls.tiny())


def test_it_fits_its_page(examples):
    assert len((examples / "mosaic.py").read_text().splitlines()) <= 150


@pytest.mark.parametrize(
    "check",
    [
        arithmetic.test_init_is_float32_finite_and_a_function_of_the_key,
        arithmetic.test_loss_is_a_positive_finite_scalar,
        arithmetic.test_gradients_reach_exactly_the_expected_parameters,
        arithmetic.test_jit_equals_no_jit,
        arithmetic.test_loss_is_draw_then_forward,
        arithmetic.test_encode_sees_the_whole_image,
        arithmetic.test_pictures_are_images,
        arithmetic.test_parameter_groups_name_real_parameters,
        masking.test_hidden_pixels_never_reach_the_encoder,
        masking.test_loss_ignores_predictions_of_visible_patches,
        masking.test_draws_lead_with_the_batch_and_depend_on_the_key,
        masking.test_mask_is_consistent,
        masking.test_images_do_not_influence_each_other,
    ],
    ids=lambda check: check.__name__.removeprefix("test_"),
)
def test_it_keeps_the_contract(case, check):
    check(case)


def test_rectangles_channels_and_unknown_keys(cls):
    arithmetic.test_rectangles_and_odd_channels(cls)
    arithmetic.test_unknown_keys_are_refused_with_the_nearest(cls)


def test_the_loss_by_hand(case):
    """The error of hidden patches against mean colours that numpy takes."""
    loss, output = case.forward()
    images, hidden = np.asarray(case.batch["image"]), np.asarray(output.trace["mask"].hidden)
    cells = images.reshape(8, 4, 2, 2, 4, 2, 2, 3).mean((3, 6))  # image, row of patches, of cells, column, of cells, c
    target = cells.transpose(0, 1, 3, 2, 4, 5).reshape(8, 16, 12)
    errors = np.square(np.asarray(output.trace["pred"]) - target).mean(-1)
    assert hidden.sum(1).tolist() == [10] * 8  # of 16; int(16 * 0.4) = 6 stay
    np.testing.assert_allclose(loss, errors[hidden].mean(), rtol=1e-5)


def test_flops_agree_with_the_compiler(case):
    step = jax.jit(jax.value_and_grad(lambda params, *rest: case.method.forward(params, *rest)[0]))
    v = case.variables
    cost = step.lower(v.params, v.extra, v.frozen, case.batch, case.draws, case.progress).compile().cost_analysis()
    assert math.isclose(case.method.flops(), cost["flops"] / 8, rel_tol=0.25)  # tiny: what is no product shows


@pytest.mark.parametrize("key, words", [("cells=3", "does not divide"), ("mask_ratio=1.0", "between 0 and 1")])
def test_impossible_values_are_refused(cls, examples, key, words):
    with pytest.raises(ConfigError, match=words):
        check_all(configs.load(f"{examples}/mosaic_digits.py", [f"method.{key}"]))


def test_its_config_trains_and_is_drawn(cls, examples, tmp_path):
    config = configs.load(f"{examples}/mosaic_digits.py:epochs=2", [*SMALL, "training.log_every=1"])
    assert pretrain(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line and "step" in line]
    assert len(losses) >= 3 and np.isfinite(losses).all() and losses[-1] < losses[0]
    assert show_run(tmp_path / "run", count=2).is_file()
