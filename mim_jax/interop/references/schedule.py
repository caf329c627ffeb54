"""Learning rates, weight decays and a teacher's momentum against those that the originals compute.

A file is a table over fractional epochs (MAE), a value per step for each of several runs (DINO's family), or the
values that two schedules set one step after another (I-JEPA). All go through the keys of a config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mim_jax.errors import VerifyError
from mim_jax.interop.compare import Row, relative_errors
from mim_jax.nn.ema import cosine_ramp
from mim_jax.recipes import adamw
from mim_jax.training.groups import Group
from mim_jax.training.optimizer import scale_by_learning_rate
from mim_jax.training.schedules import Schedule, learning_rate, warmup_cosine, weight_decay

Number = int | float
_SCALED = re.compile(r"lr of a group with lr_scale ([\d.]+)")
_SINGLE = 2e-6  # what float32 may add to a value computed on the device


def is_fractional_epochs(content: Mapping[str, Any]) -> bool:
    """Whether the file holds runs with a table of fractional epochs and learning rates."""
    runs = content.get("runs")
    return (
        isinstance(runs, list)
        and bool(runs)
        and all(isinstance(run, dict) and "fractional epoch" in run.get("columns", ()) for run in runs)
    )


def rows(content: Mapping[str, Any]) -> list[Row]:
    """Warm-up and cosine at every fractional epoch of every run; rates of scaled groups as the optimizer applies them.

    The tolerance of the file is relative to each value.

    Raises:
        VerifyError: a column or argument that is not understood, named.
    """
    out = []
    for run in content["runs"]:
        table = dict(zip(run["columns"], np.asarray(run["rows"], np.float64).T, strict=True))
        args = run["args"]
        try:
            peak, minimum, warmup, epochs = (args[k] for k in ("lr", "min_lr", "warmup_epochs", "epochs"))
        except KeyError as error:
            raise VerifyError(f"a learning-rate schedule has no argument {error} (it has {_words(args)})") from error
        epoch = table.pop("fractional epoch")
        rate = np.asarray(
            warmup_cosine(epoch, peak=peak, minimum=minimum, warmup_epochs=warmup, epochs=epochs), np.float64
        )
        for column, expected in table.items():
            found = rate if column == "lr" else scaled(rate, column)
            out.append(_row(f"{column} ({_words(args)})", expected, found, _tolerance(content)))
    return out


def scaled(rate: np.ndarray, column: str) -> np.ndarray:
    """The rates at which the optimizer moves a parameter whose group has the scale that the column names.

    Raises:
        VerifyError: the column names no scale.
    """
    match = _SCALED.fullmatch(column)
    if not match:
        raise VerifyError(f"a learning-rate schedule has the column '{column}', which is not understood")
    group = Group(lr_scale=float(match.group(1)))
    optimizer = scale_by_learning_rate({"x": group})
    unit = {"x": jnp.ones(())}
    moved = jax.vmap(lambda lr: optimizer.update(unit, optimizer.init(unit), lr=lr)[0]["x"])(jnp.asarray(rate))
    return -np.asarray(moved, np.float64)


def is_per_step(content: Mapping[str, Any]) -> bool:
    """Whether the file holds runs with a value for every step."""
    runs = content.get("runs")
    return (
        isinstance(runs, list) and bool(runs) and all(isinstance(run, dict) and "value per step" in run for run in runs)
    )


def per_step_rows(content: Mapping[str, Any]) -> list[Row]:
    """Every step of `cosine_scheduler` of DINO's family, whose warm-up holds both its ends.

    Values that end higher than they begin are a weight decay; those that end at 1 are also a teacher's momentum.

    Raises:
        VerifyError: an argument that is not understood, named.
    """
    out = []
    for run in content["runs"]:
        args = dict(run["args"])
        base, final, epochs, per_epoch = (args.pop(k) for k in ("base_value", "final_value", "epochs", "niter_per_ep"))
        warmup, start = args.pop("warmup_epochs", 0), args.pop("start_warmup_value", 0.0)
        warmup_steps = args.pop("warmup_steps", -1)
        if args:
            raise VerifyError(f"a schedule per step has the argument '{next(iter(args))}', which is not understood")
        warmup = warmup_steps / per_epoch if warmup_steps > 0 else warmup
        length = {"steps_per_epoch": per_epoch, "epochs": epochs}
        if final > base and not warmup:
            schedule = weight_decay({**adamw(), "weight_decay": base, "weight_decay_end": final}, **length)
        else:
            section = _section(base, final, start, warmup) | {"warmup_inclusive": True}
            schedule = learning_rate(section, batch_size=1, **length)
        expected = np.asarray(run["value per step"], np.float64)
        out += _step_rows(f"value per step ({_words(run['args'])})", expected, schedule, _tolerance(content))
        if final == 1.0 and not warmup:
            share = jnp.arange(len(expected)) / len(expected)
            found = np.asarray(jax.vmap(partial(cosine_ramp, base, final))(share), np.float64)
            out.append(_row("the same as a teacher's momentum, float32", expected, found, _SINGLE))
    return out


def is_step_by_step(content: Mapping[str, Any]) -> bool:
    """Whether the file holds the values that a schedule of learning rate and one of weight decay set."""
    parts = [content.get(name) for name in ("lr", "weight decay")]
    return all(isinstance(part, dict) and "args" in part and "values" in part for part in parts)


def step_by_step_rows(content: Mapping[str, Any]) -> list[Row]:
    """I-JEPA's schedules, which take a step before they are first read."""
    rate, decay = content["lr"], content["weight decay"]
    args = rate["args"]
    section = _section(args["ref_lr"], args["final_lr"], args["start_lr"], args["warmup_steps"])
    schedule = learning_rate(section | {"schedule_offset": 1}, batch_size=1, steps_per_epoch=1, epochs=args["T_max"])
    tolerance = _tolerance(content)
    out = _step_rows(f"lr ({_words(args)})", np.asarray(rate["values"], np.float64), schedule, tolerance)
    args = decay["args"]
    section = {**adamw(), "weight_decay": args["ref_wd"], "weight_decay_end": args["final_wd"], "schedule_offset": 1}
    ramp = weight_decay(section, steps_per_epoch=1, epochs=args["T_max"])
    return out + _step_rows(f"weight decay ({_words(args)})", np.asarray(decay["values"], np.float64), ramp, tolerance)


def _section(lr: Number, min_lr: Number, warmup_lr: Number, warmup_epochs: Number) -> dict[str, Any]:
    values = {"lr": lr, "lr_batch": 0, "min_lr": min_lr, "warmup_lr": warmup_lr, "warmup_epochs": warmup_epochs}
    return {**adamw(), **values}


def _step_rows(name: str, expected: Float[np.ndarray, " S"], schedule: Schedule | None, tolerance: float) -> list[Row]:
    """The schedule in float64, and as the compiled step computes it."""
    if schedule is None:
        raise VerifyError(f"{name}: a weight decay that ends below 0 is none")
    steps = np.arange(len(expected))
    single = jax.jit(schedule)(jnp.asarray(steps))
    return [
        _row(name, expected, np.asarray(schedule(steps), np.float64), tolerance),
        _row("the same in float32, as a step computes it", expected, np.asarray(single, np.float64), _SINGLE),
    ]


def _row(name: str, expected: Float[np.ndarray, " S"], found: Float[np.ndarray, " S"], tolerance: float) -> Row:
    if expected.shape != found.shape:
        return Row(name, ok=False, note=f"shape {found.shape}, expected {expected.shape}")
    errors = [relative_errors(e[None], f[None])[0] for e, f in zip(expected, found, strict=True)]
    worst = float(np.max(errors))
    return Row(name, worst <= tolerance, worst, tolerance, f"{len(expected)} values, relative to each")


def _tolerance(content: Mapping[str, Any]) -> float:
    return float(content.get("tolerance", {}).get("rtol", 1e-6))


def _words(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in args.items())
