"""Learning rates against the authors' schedule and against the formula in float64."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.training.schedules import warmup_cosine, warmup_cosine_at_step

SETTINGS = {"peak": 2.4e-3, "minimum": 1e-6, "warmup_epochs": 40.0, "epochs": 1600.0}


def expected(epoch: float, *, peak: float, minimum: float, warmup_epochs: float, epochs: float) -> float:
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    share = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * share))


def reference_runs(shared) -> list[tuple[dict, np.ndarray]]:
    runs = json.loads((shared / "goldens/mae/lr_schedule.json").read_text())["runs"]
    settings = [
        {"peak": a["lr"], "minimum": a["min_lr"], "warmup_epochs": a["warmup_epochs"], "epochs": a["epochs"]}
        for a in (run["args"] for run in runs)
    ]
    return [(s, np.array(run["rows"])) for s, run in zip(settings, runs, strict=True)]


def test_reference_schedule_on_the_host(shared):
    for settings, rows in reference_runs(shared):
        np.testing.assert_allclose(warmup_cosine(rows[:, 0], **settings), rows[:, 1], rtol=1e-12, atol=1e-18)


def test_reference_schedule_in_float32(shared):
    """A float32 epoch is itself up to half a unit off; the rate may be off by what that makes, and 1e-6 of itself."""
    for settings, rows in reference_runs(shared):
        epoch = jnp.asarray(rows[:, 0], jnp.float32)
        got = jax.jit(lambda e, s=settings: warmup_cosine(e, **s))(epoch)
        assert got.dtype == jnp.float32
        exact = [expected(float(e), **settings) for e in np.asarray(epoch, np.float64)]
        np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-12)
        early = rows[:, 0] < 0.9 * settings["epochs"]
        np.testing.assert_allclose(got[early], rows[early, 1], rtol=1e-6)


def test_reference_schedule_at_steps_in_float32(shared):
    """Over steps, where nothing is lost on the way in, float32 holds the reference's 1e-6 everywhere."""
    per_epoch = 312
    for settings, rows in reference_runs(shared):
        steps = np.round(rows[:, 0] * per_epoch).astype(np.int32)
        f = jax.jit(lambda s, k=settings: warmup_cosine_at_step(s, steps_per_epoch=per_epoch, **k))
        exact = [expected(step / per_epoch, **settings) for step in steps]
        np.testing.assert_allclose(jax.vmap(f)(jnp.asarray(steps)), exact, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("per_epoch", [1, 7, 312])
def test_every_stage_of_a_long_run(per_epoch):
    total = int(SETTINGS["epochs"] * per_epoch)
    steps = sorted(
        {0, 1, 40 * per_epoch - 1, 40 * per_epoch, 40 * per_epoch + 1, total // 2, total - 2, total - 1, total}
    )
    f = jax.jit(lambda s: warmup_cosine_at_step(s, steps_per_epoch=per_epoch, **SETTINGS))
    got = [float(f(jnp.int32(step))) for step in steps]
    np.testing.assert_allclose(got, [expected(step / per_epoch, **SETTINGS) for step in steps], rtol=1e-6)
    on_host = [warmup_cosine_at_step(step, steps_per_epoch=per_epoch, **SETTINGS) for step in steps]
    np.testing.assert_allclose(got, on_host, rtol=1e-6)


def test_last_steps_keep_their_digits():
    """1 + cos(x) would be 0 or one rounding unit here."""
    settings = {**SETTINGS, "minimum": 0.0}
    total = 1600 * 312
    for left in (1, 2, 5, 100):
        got = warmup_cosine_at_step(jnp.int32(total - left), steps_per_epoch=312, **settings)
        exact = settings["peak"] * math.sin(math.pi / 2 * left / (1560 * 312)) ** 2
        assert float(got) == pytest.approx(exact, rel=1e-6)


def test_ends():
    assert warmup_cosine(0.0, **SETTINGS) == 0.0
    assert warmup_cosine(40.0, **SETTINGS) == SETTINGS["peak"]
    assert warmup_cosine(1600.0, **SETTINGS) == pytest.approx(SETTINGS["minimum"], rel=1e-12)
    assert warmup_cosine(1700.0, **SETTINGS) == pytest.approx(SETTINGS["minimum"], rel=1e-12)


def test_without_warmup_it_starts_at_the_peak():
    settings = {"peak": 1.0, "minimum": 0.0, "warmup_epochs": 0.0, "epochs": 2.0}
    assert warmup_cosine(0.0, **settings) == 1.0
    assert warmup_cosine(1.0, **settings) == pytest.approx(0.5)
    assert float(warmup_cosine_at_step(jnp.int32(0), steps_per_epoch=3, **settings)) == 1.0


def test_warmup_alone_never_divides_by_zero():
    settings = {"peak": 1.0, "minimum": 0.0, "warmup_epochs": 2.0, "epochs": 2.0}
    assert warmup_cosine(1.0, **settings) == 0.5
    assert np.isfinite(warmup_cosine(2.0, **settings))
    assert np.isfinite(float(warmup_cosine(jnp.float32(2.0), **settings)))


def test_fractional_epochs_count():
    settings = {"peak": 1.0, "minimum": 0.0, "warmup_epochs": 0.25, "epochs": 1.3}
    got = [float(warmup_cosine_at_step(jnp.int32(s), steps_per_epoch=10, **settings)) for s in range(14)]
    np.testing.assert_allclose(got, [expected(s / 10, **settings) for s in range(14)], rtol=1e-6, atol=1e-12)
