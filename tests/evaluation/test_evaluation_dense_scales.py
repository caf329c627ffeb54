"""The multi-scale test of segmentation against one size, one direction and one window after the other."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.data.pair_views import PairView
from mim_jax.data.pairs import Pair
from mim_jax.data.resize import resize
from mim_jax.evaluation.dense.inference import PLAIN, Inference, looks_of
from mim_jax.evaluation.dense.training import CrossEntropy, Plan
from mim_jax.evaluation.dense.trunk import Trunk
from mim_jax.models.dense_heads import LinearHead

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def in_a_loop(predict, view, stride, pair):
    """Mean class probabilities over `RATIOS` and flips, one size, one direction and one window after the other."""
    total, crop = 0, view.crop
    for ratio in RATIOS:
        short = max(ratio * view.short, min(crop))  # never smaller than the crop
        factor = short / min(pair.image.shape[:2])
        size = tuple(int(side * factor + 0.5) for side in pair.image.shape[:2])
        for flip in (False, True):
            image = resize(pair.image, size, "bilinear")
            image = image[:, ::-1] if flip else image
            sums, counts = 0.0, np.zeros((*size, 1))
            for top in sorted({min(top, size[0] - crop[0]) for top in range(0, size[0], stride[0])}):
                for left in sorted({min(left, size[1] - crop[1]) for left in range(0, size[1], stride[1])}):
                    here = (slice(top, top + crop[0]), slice(left, left + crop[1]))
                    out = np.asarray(predict(image[here][None]))[0]
                    whole = np.zeros((*size, out.shape[-1]))
                    whole[here] = jax.image.resize(out, (*crop, out.shape[-1]), "bilinear", antialias=False)
                    sums, counts[here] = sums + whole, counts[here] + 1
            logits = np.asarray(
                jax.image.resize(sums / counts, (*pair.map.shape, out.shape[-1]), "bilinear", antialias=False)
            )
            chances = np.exp(logits - logits.max(-1, keepdims=True))
            chances = chances / chances.sum(-1, keepdims=True)
            total = total + (chances[:, ::-1] if flip else chances) / (2 * len(RATIOS))
    return total


def test_a_multi_scale_test_is_the_mean_over_a_plain_loop(build):
    method, variables = build()
    plan = Plan(Trunk(method), LinearHead(3), CrossEntropy(), (0.5,), (0.25,), (16, 16, 3), 10, 8, 0.1)
    state = plan.init(variables, jax.random.key(0))
    random = np.random.default_rng(0)
    state = state.replace(
        params=jax.tree.map(lambda x: jnp.asarray(random.normal(0, 1, x.shape), x.dtype), state.params)
    )
    pairs = [
        Pair(random.integers(0, 256, (*size, 3), dtype=np.uint8), np.zeros(size, np.int32), str(size))
        for size in [(16, 16), (22, 37)]
    ]
    view = PairView((16, 16), 20, 1000)
    looks = looks_of(view, RATIOS, True)
    # 0.5 and 0.75 of 20 pixels are less than the crop: both are looked at with 16.
    assert looks[0.8, False] == looks[0.8, True] == pytest.approx(2 / 12) and len(looks) == 10
    infer = Inference(plan, state, variables, view, (10, 10), 4, looks=looks)
    predict = jax.jit(lambda images: plan.predict(state, variables, images))
    for pair, (same, found) in zip(pairs, infer(pairs), strict=True):
        assert same is pair
        found = np.asarray(found)[: pair.map.shape[0], : pair.map.shape[1]]
        wanted = in_a_loop(predict, view, (10, 10), pair)
        assert wanted.std() > 0.05  # not a table of thirds
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_single_look_gives_the_outputs_as_they_are():
    view = PairView((16, 16), 16, 1000)
    assert looks_of(view, (1.0,), False) == looks_of(view, (0.5, 0.75), False) == PLAIN
    low = dataclasses.replace(
        view, short=8
    )  # images smaller than the crop are padded; a factor makes none smaller still
    assert looks_of(low, (0.5, 2.0), True) == {
        (1.0, False): 0.25,
        (1.0, True): 0.25,
        (2.0, False): 0.25,
        (2.0, True): 0.25,
    }


class _Itself:
    """A plan whose prediction is the image itself."""

    def predict(self, state, variables, images):
        del state, variables
        return images.astype(jnp.float32)


def test_a_whole_image_can_be_mirrored_too():
    """Of a plan that gives its input back, both directions say the same about every pixel."""
    image = np.random.default_rng(0).integers(0, 256, (11, 19, 3), dtype=np.uint8)
    view, pair = PairView((16, 16), 16, 1000), Pair(image, np.zeros((11, 19), np.int32), "a")
    ((_, found),) = Inference(_Itself(), {}, {}, view, None, 4, looks=looks_of(view, (1.0,), True))([pair])
    seen = jax.image.resize(view.test(pair, whole=True).astype(np.float32), (11, 19, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(found[:11, :19], jax.nn.softmax(seen), atol=1e-3)
