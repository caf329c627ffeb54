"""Learning rates against those that the original computes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop.compare import Row, relative_errors
from mim_jax.training.groups import Group
from mim_jax.training.optimizer import scale_by_learning_rate
from mim_jax.training.schedules import warmup_cosine

_SCALED = re.compile(r"lr of a group with lr_scale ([\d.]+)")


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
    tolerance = float(content.get("tolerance", {}).get("rtol", 1e-6))
    out = []
    for run in content["runs"]:
        table = dict(zip(run["columns"], np.asarray(run["rows"], np.float64).T, strict=True))
        args = run["args"]
        settings = ", ".join(f"{k} {v}" for k, v in args.items())
        try:
            peak, minimum, warmup, epochs = (args[k] for k in ("lr", "min_lr", "warmup_epochs", "epochs"))
        except KeyError as error:
            raise VerifyError(f"a learning-rate schedule has no argument {error} (it has {settings})") from error
        epoch = table.pop("fractional epoch")
        rate = np.asarray(
            warmup_cosine(epoch, peak=peak, minimum=minimum, warmup_epochs=warmup, epochs=epochs), np.float64
        )
        for column, expected in table.items():
            found = rate if column == "lr" else scaled(rate, column)
            errors = [relative_errors(e[None], f[None])[0] for e, f in zip(expected, found, strict=True)]
            worst = float(np.max(errors))
            note = f"{len(expected)} values, relative to each"
            out.append(Row(f"{column} ({settings})", worst <= tolerance, worst, tolerance, note))
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
