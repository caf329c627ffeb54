"""The other schedules of the field, step by step, against each original's arithmetic."""

from __future__ import annotations

import bisect
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.training import nonfinite
from mim_jax.training.program import step_settings
from mim_jax.training.resolve import Plan
from mim_jax.training.schedules import Schedule, learning_rate, warmup_cosine_at_step, weight_decay


def rate(steps_per_epoch: int, epochs: float, batch_size: int = 1, **keys) -> Schedule:
    section = {**recipes.adamw(), "lr_batch": 0, **keys}
    return learning_rate(section, batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs)


def decay(steps_per_epoch: int, epochs: float, **keys) -> Schedule:
    schedule = weight_decay({**recipes.adamw(), **keys}, steps_per_epoch=steps_per_epoch, epochs=epochs)
    assert schedule is not None
    return schedule


def agrees(schedule: Schedule, wanted: list[float]):
    """On the host to float64 rounding; one step at a time in a compiled function to float32 rounding."""
    steps = np.arange(len(wanted))
    np.testing.assert_allclose(schedule(steps), wanted, rtol=1e-12, atol=1e-18)
    assert [schedule(int(s)) for s in steps[:3]] == list(schedule(steps[:3]))
    single = jax.vmap(jax.jit(schedule))(jnp.asarray(steps, jnp.int32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, wanted, rtol=1e-6, atol=1e-12)


def half_cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def test_the_default_is_the_plain_schedule_bit_for_bit():
    """What a run computed before there were options."""

    def plain(step):
        left = ((30 - step).astype(jnp.float32) + 0.0) / 3
        cosine = 1e-5 + (0.3 - 1e-5) * jnp.sin(math.pi / 2 * jnp.clip(left / 7.5, 0.0, 1.0)) ** 2
        epoch = step.astype(jnp.float32) / 3
        return jnp.where(epoch < 2.5, 0.3 * epoch / 2.5, cosine)

    steps = jnp.arange(31)
    settings = dict(steps_per_epoch=3, peak=0.3, minimum=1e-5, warmup_epochs=2.5, epochs=10)
    schedule = rate(3, 10, lr=0.3, min_lr=1e-5, warmup_epochs=2.5)
    for f in (schedule, lambda s: warmup_cosine_at_step(s, **settings)):
        np.testing.assert_array_equal(jax.vmap(jax.jit(f))(steps), jax.vmap(jax.jit(plain))(steps))


def test_timms_cosine_lags_and_jumps():
    """SimMIM: phase from step 0, read one step late, start and end per 512 images too."""
    n, warmup, total, factor = 4, 2 * 4, 9 * 4, 2048 / 512

    def timm(t):
        t = max(t - 1, 0)  # set after the step before
        if t < warmup:
            return 5e-7 * factor + t * (1e-4 - 5e-7) * factor / warmup
        return (1e-5 + (1e-4 - 1e-5) * half_cosine(t / total)) * factor

    keys = dict(lr=1e-4, lr_batch=512, min_lr=1e-5, warmup_lr=5e-7, scale_min_lr=True, warmup_epochs=2)
    schedule = rate(n, 9, batch_size=2048, schedule="cosine_whole", schedule_offset=-1, **keys)
    agrees(schedule, [timm(t) for t in range(total)])
    assert schedule(warmup + 1) < 0.95 * schedule.peak  # never at the peak


def test_steps_down():
    """SimMIM's 800 epochs: bisect_right over milestones in steps."""
    n, milestones = 3, [4 * 3, 7 * 3]

    def multistep(t):
        return 1e-6 + t * (2e-4 - 1e-6) / 6 if t < 6 else 2e-4 * 0.1 ** bisect.bisect_right(milestones, t)

    schedule = rate(n, 9, lr=2e-4, warmup_lr=1e-6, warmup_epochs=2, schedule="step", decay_epochs=(4, 7), min_lr=1e-5)
    agrees(schedule, [multistep(t) for t in range(27)])
    half = rate(n, 9, lr=1.0, warmup_epochs=0, schedule="step", decay_epochs=(1.5,), decay_factor=0.5)
    np.testing.assert_array_equal(half(np.arange(7)), [1, 1, 1, 1, 1, 0.5, 0.5])


def test_sparks_schedules_reach_their_ends():
    warmup, total, peak = 6, 25, 3.2e-3

    def learning(t):
        if t < warmup:
            return 0.005 * peak + 0.995 * peak * t / warmup
        return 0.001 * peak + 0.999 * peak * half_cosine((t - warmup) / (total - 1 - warmup))

    keys = dict(lr=2e-4, lr_batch=256, warmup_lr=0.005 * 2e-4, min_lr=0.001 * 2e-4, scale_min_lr=True)
    schedule = rate(5, 5, batch_size=4096, warmup_epochs=1.2, end_inclusive=True, **keys)
    agrees(schedule, [learning(t) for t in range(total)])
    assert schedule(total - 1) == pytest.approx(0.001 * peak, rel=1e-12)
    wanted = [0.2 + (0.04 - 0.2) * half_cosine(t / (total - 1)) for t in range(total)]
    agrees(decay(5, 5, weight_decay=0.04, weight_decay_end=0.2, end_inclusive=True), wanted)


@pytest.mark.parametrize("start", [0.0, 1e-6])
def test_dinos_warm_up_holds_both_ends(start):
    n, warmup, total = 5, 10, 30
    ramp = np.linspace(start, 2e-3, warmup)
    fall = [1e-6 + (2e-3 - 1e-6) * half_cosine(i / (total - warmup)) for i in range(total - warmup)]
    schedule = rate(n, 6, lr=2e-3, min_lr=1e-6, warmup_lr=start, warmup_epochs=2, warmup_inclusive=True)
    agrees(schedule, [*ramp, *fall])
    one = rate(5, 6, lr=2e-3, warmup_lr=start, warmup_epochs=0.2, warmup_inclusive=True)
    assert one(0) == start and one(1) == 2e-3  # as np.linspace with a single value


def test_ijepas_schedules_are_those_of_a_longer_run():
    n, epochs = 7, 10
    length, warmup = int(1.25 * epochs * n), 2 * n

    def learning(t):
        t += 1
        if t < warmup:
            return 2e-4 + t / warmup * (1e-3 - 2e-4)
        return max(1e-6, 1e-6 + (1e-3 - 1e-6) * half_cosine((t - warmup) / (length - warmup)))

    longer = dict(schedule_stretch=1.25, schedule_offset=1)
    schedule = rate(n, epochs, lr=1e-3, warmup_lr=2e-4, min_lr=1e-6, warmup_epochs=2, **longer)
    agrees(schedule, [learning(t) for t in range(epochs * n)])
    wanted = [0.4 + (0.04 - 0.4) * half_cosine((t + 1) / length) for t in range(epochs * n)]
    agrees(decay(n, epochs, weight_decay=0.04, weight_decay_end=0.4, **longer), wanted)


def test_no_schedule_of_the_decay_without_an_end():
    assert weight_decay(recipes.adamw(), steps_per_epoch=3, epochs=2) is None


def test_a_constant_stays():
    np.testing.assert_array_equal(decay(3, 2, weight_decay=0.1, weight_decay_end=0.1)(np.arange(6)), 0.1)


def test_rates_and_decays_of_ibots_training(shared):
    """The schedules of a whole training case, as the step reads them."""
    case = shared / "goldens/ibot/train_steps"
    c = json.loads((case / "case.json").read_text())["config"]
    n, epochs, steps = c["steps_per_epoch"], c["epochs"], np.arange(c["steps"])
    with np.load(case / "outputs.npz") as outputs:
        lrs, wds = outputs["lrs"], outputs["wds"]
    schedule = rate(n, epochs, lr=c["lr"][0], min_lr=c["lr"][1], warmup_epochs=0)
    np.testing.assert_allclose(schedule(steps), lrs, rtol=1e-12)
    ramp = decay(n, epochs, weight_decay=c["wd"][0], weight_decay_end=c["wd"][1])
    np.testing.assert_allclose(ramp(steps), wds, rtol=1e-12)


# ---- From the config into the step -----------------------------------------------------------------------------


def settings_of(root, *changes):
    config = configs.load(
        str(root / "configs/mae/digits.py"), ["training.batch_size=256", "training.epochs=4", *changes]
    )
    return step_settings(config, Plan(steps_per_epoch=5, total_steps=20, peak_lr=0.0))


def test_the_step_is_told_what_changes(root):
    plain = settings_of(root)
    assert list(plain.at(jnp.int32(3))) == ["lr"]
    more = ["optimizer.weight_decay=0.1", "optimizer.weight_decay_end=0.5", "optimizer.freeze_epochs=0.5"]
    settings = settings_of(root, *more)
    assert settings.freeze_steps == 3
    values = [settings.at(jnp.int32(step)) for step in (0, 2, 3, 20)]
    assert [bool(v["held"]) for v in values] == [True, True, False, False]
    np.testing.assert_allclose(values[0]["weight_decay"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(values[-1]["weight_decay"], 0.5, rtol=1e-6)


def test_settings_of_a_step_that_failed_are_kept_without_schedules(root):
    settings = settings_of(root, "optimizer.weight_decay_end=0.5", "optimizer.freeze_epochs=1")
    stored = json.loads(json.dumps(nonfinite._plain(settings)))
    again = nonfinite._settings(stored)
    assert again.freeze_steps == settings.freeze_steps and again.weight_decay is None
    assert again.steps_per_epoch == settings.steps_per_epoch


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("optimizer.schedule=linear", "one of cosine, cosine_whole, step"),
        ("optimizer.clip=each", "one of global, per_tensor"),
        ("optimizer.name=lam", "did you mean 'lamb'"),
        ("optimizer.decay_epochs=(7,3)", "rising order"),
        ("optimizer.decay_factor=0", "above 0, up to 1"),
        ("optimizer.schedule_stretch=0", "above 0"),
        ("optimizer.freeze_epochs=-1", "at least 0"),
        ("optimizer.warmup_lr=-1", "at least 0"),
        ("optimizer.schedule_offset=0.5", "whole number"),
    ],
)
def test_a_config_with_impossible_options_is_refused(root, change, says):
    with pytest.raises(configs.ConfigError, match=rf"optimizer\.{change.split('=')[0][10:]}.*{says}"):
        configs.check(configs.load(str(root / "configs/mae/digits.py"), [change]))
