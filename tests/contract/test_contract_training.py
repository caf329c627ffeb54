"""The training step of every method: devices, micro-batches, non-finite numbers, FLOPs."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshed_step import compiled

from mim_jax import config as configs
from mim_jax.methods import registry
from mim_jax.methods.base import Progress
from mim_jax.pretrain import check_views
from mim_jax.training import sharding
from mim_jax.training.groups import flat
from mim_jax.training.step import loss_and_grads


def run(method, steps=2, spoil=None, **sizes):
    """State and scalars after some steps; batch number `spoil` holds a value that is not a number."""
    state, _, batch, step, _ = compiled(method, **sizes)
    spoilt = np.array(batch["image"])
    spoilt[3] = np.nan
    for number in range(steps):
        image = jax.device_put(spoilt, batch["image"].sharding) if number == spoil else batch["image"]
        state, scalars = step(state, {**batch, "image": image})
    return state, scalars


# One mesh with all three axes serves; the others are for those who have the time.
@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param({"data": 8}, marks=pytest.mark.slow),
        pytest.param({"data": 2, "fsdp": 4}, marks=pytest.mark.slow),
        {"data": 2, "fsdp": 2, "tensor": 2},
    ],
)
def test_many_devices_equal_one(method, mesh, monkeypatch):
    monkeypatch.setattr(sharding, "SMALL", 8)
    one, one_scalars = run(method)
    many, many_scalars = run(method, **mesh)
    np.testing.assert_allclose(many_scalars["loss"], one_scalars["loss"], rtol=1e-5)
    np.testing.assert_allclose(many_scalars["grad_norm"], one_scalars["grad_norm"], rtol=1e-4)
    for name, leaf in flat(one.extra).items():
        np.testing.assert_allclose(flat(many.extra)[name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)
    assert whole_by_accident(many, mesh.get("fsdp", 1)) == []


def whole_by_accident(state, fsdp: int) -> list[str]:
    """Arrays of a state, moments and averages included, that could be split over fsdp and are not."""
    could = {name: x for name, x in flat(state).items() if x.size >= 8 and any(s % fsdp == 0 for s in x.shape)}
    assert fsdp == 1 or {name.split("/")[0] for name in could} >= {"params", "opt_state", "ema"}
    return [name for name, x in could.items() if fsdp > 1 and x.is_fully_replicated]


def test_accumulation_equals_the_full_batch(method, case, parts=4):
    if method.batch_statistics:
        pytest.skip("the images of a micro-batch share their statistics by definition")
    v, (loss, grads) = case.variables, case.loss_and_gradients()
    compute = jax.jit(partial(loss_and_grads, method), static_argnums=5)
    split_loss, output, split = compute(v, v.frozen, case.batch, case.draws, case.progress, parts)
    np.testing.assert_allclose(split_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(output.weight, case.forward()[1].weight, rtol=1e-6)
    for name, leaf in flat(jax.device_get(split)).items():
        np.testing.assert_allclose(leaf, grads[name], rtol=2e-3, atol=1e-6, err_msg=name)


def test_a_step_lowers_the_loss_on_its_own_batch(method):
    early, late = run(method, steps=1)[1]["loss"], run(method, steps=12)[1]["loss"]
    assert late < early


def test_nothing_moves_after_a_number_that_is_not_finite(method):
    before, _ = run(method, steps=1)
    after, scalars = run(method, steps=3, spoil=1)
    assert bool(after.hold) and int(after.step) == 1
    kept = jax.tree.map(lambda a, b: bool((a == b).all()), after.replace(hold=before.hold), before)
    assert all(jax.tree.leaves(kept))


def test_flops_agree_with_the_compiler(cls, root):
    """The paper's model of each method, lowered but never compiled."""
    config = configs.load(str(root / "configs" / cls.name / "imagenet1k.py"), ["training.precision=fp32"])
    method = registry.build(config)
    size = 4
    check_views(config, method)
    batch = {name: jax.ShapeDtypeStruct(shape.array(size), jnp.float32) for name, shape in method.views().items()}
    batch["label"] = jax.ShapeDtypeStruct((size,), jnp.int32)
    variables = jax.eval_shape(method.init, jax.random.key(0), batch)

    def step(variables, batch, key):
        progress = Progress.at(0, 10, 5)
        loss = lambda p: method.loss(p, variables.extra, variables.frozen, batch, key, progress)[0]  # noqa: E731
        return jax.value_and_grad(loss)(variables.params)

    lowered = jax.jit(step).lower(variables, batch, jax.eval_shape(lambda: jax.random.key(0)))
    assert lowered.cost_analysis()["flops"] / size == pytest.approx(method.flops(), rel=0.02)
