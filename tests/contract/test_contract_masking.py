"""What is hidden stays hidden, and only what counts is scored."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _masks(cls):
    if not cls.masks:
        pytest.skip("this method hides nothing")


def hidden_pixels(mask, size):
    """(B, H, W, 1): True where a pixel lies in a hidden patch."""
    h, w = mask.grid
    grid = mask.hidden.reshape(-1, h, w)
    return jnp.repeat(jnp.repeat(grid, size[0] // h, 1), size[1] // w, 2)[..., None]


def test_hidden_pixels_never_reach_the_encoder(case):
    _, before = case.forward()
    where = hidden_pixels(before.trace["mask"], (16, 16))
    other = jnp.where(where, case.batch["image"] * -3 + 7, case.batch["image"])
    _, after = case.forward(batch={**case.batch, "image": other})
    assert where.any() and not where.all()
    np.testing.assert_array_equal(before.trace["latent"], after.trace["latent"])
    visible = jnp.where(where, case.batch["image"], case.batch["image"] * -3 + 7)
    _, moved = case.forward(batch={**case.batch, "image": visible})
    assert not np.allclose(before.trace["latent"], moved.trace["latent"])


def with_predictions_changed(case, *changes):
    """The losses when each change times a ramp over its values is added to what the last module predicts.

    A ramp, because a softmax does not notice a constant.
    """
    shape = case.forward()[1].trace["pred"].shape
    touched = []

    def intercept(call, args, kwargs, context, change):
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path == () and getattr(out, "shape", None) == shape:
            touched.append(context.module)
            return out + change * jnp.arange(1, out.shape[-1] + 1)
        return out

    @jax.jit
    def loss(change):
        with nn.intercept_methods(partial(intercept, change=change)):
            return case.eager_forward()[0]

    losses = [loss(change) for change in changes]
    if not touched:
        pytest.skip("no module returns the prediction of every patch; the reference cases check this loss")
    return losses


def test_loss_ignores_predictions_of_visible_patches(case):
    if case.method.scores_visible:
        pytest.skip("this method's loss covers visible patches by definition")
    hidden = case.forward()[1].trace["mask"].hidden[:, :, None]
    loss = case.loss()
    of_visible, of_hidden = with_predictions_changed(case, jnp.where(hidden, 0.0, 1e3), jnp.where(hidden, 1.0, 0.0))
    np.testing.assert_allclose(of_visible, loss, rtol=1e-6)
    assert abs(of_hidden - loss) > 1e-3


def test_draws_lead_with_the_batch_and_depend_on_the_key(case):
    for leaf in jax.tree.leaves(case.draws):
        assert leaf.shape[0] == 8
    same, other = case.draw(jax.random.key(2)), case.draw(jax.random.key(3))
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), case.draws, same)
    assert all(jax.tree.leaves(equal))
    differs = jax.tree.map(lambda a, b: bool((a != b).any()), case.draws, other)
    assert any(jax.tree.leaves(differs))


def test_mask_is_consistent(case):
    mask = case.forward()[1].trace["mask"]
    assert mask.hidden.shape[1] == mask.grid[0] * mask.grid[1]
    if mask.visible is None:
        return
    both = np.concatenate([mask.visible, mask.masked], axis=1)
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(np.arange(both.shape[1]), (8, 1)))
    assert np.take_along_axis(np.asarray(mask.hidden), np.asarray(mask.masked), 1).all()
    assert not np.take_along_axis(np.asarray(mask.hidden), np.asarray(mask.visible), 1).any()


def test_images_do_not_influence_each_other(case):
    if case.method.batch_statistics:
        pytest.skip("the images of a batch share their statistics by definition")
    _, together = case.forward()
    batch = {**case.batch, "image": case.batch["image"].at[1:].set(0.5)}
    _, alone = case.forward(batch=batch)
    np.testing.assert_allclose(together.trace["latent"][0], alone.trace["latent"][0], rtol=1e-5, atol=1e-6)
