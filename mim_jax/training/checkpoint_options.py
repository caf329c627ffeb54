"""How Orbax is asked to keep checkpoints, and how what it says is read."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from mim_jax.errors import CheckpointError


def quiet() -> None:
    """Turns Orbax's log off, which reports every file; its errors are raised, and reported once, by us."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def options_of(
    keep: int, keep_best: bool, metric: str, read_only: bool, finished: Callable[[], None]
) -> ocp.CheckpointManagerOptions:
    lowest = lowest_is_best(metric)

    def judge(metrics: Mapping[str, float]) -> float:
        return metrics.get(metric, math.inf if lowest else -math.inf)

    kept: list[Any] = [policies.LatestN(n=keep)]
    if keep_best:
        kept.append(policies.BestN(get_metric_fn=judge, reverse=lowest, n=1, keep_checkpoints_without_metrics=False))
    return ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(kept),
        best_fn=judge,  # without it Orbax would not write metrics down
        best_mode="min" if lowest else "max",
        create=not read_only,
        read_only=read_only,
        save_interval_steps=0 if read_only else 1,
        cleanup_tmp_directories=not read_only,
        async_options=ocp.AsyncOptions(post_finalization_callback=finished),
    )


def lowest_is_best(metric: str) -> bool:
    return metric.endswith("loss")


def absolute(workdir: str | os.PathLike[str]) -> epath.Path:
    """Orbax wants absolute paths; bucket addresses such as gs://... stay what they are."""
    return epath.Path(workdir).expanduser().resolve()


def steps_in(folder: epath.Path) -> list[int]:
    """The steps that have a folder of their own, in order."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    found = (name.partition(".")[0] for name in names if "tmp" not in name)
    return sorted({int(name) for name in found if name.isdigit()})


def is_full(error: BaseException) -> bool:
    return any(text in str(error) for text in ("RESOURCE_EXHAUSTED", "No space left", "Disk quota", "File too large"))


def why_not(error: BaseException) -> str:
    return "no space left on the disk" if is_full(error) else reason_of(error)


def reason_of(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def opened(folder: epath.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """Orbax's manager. Raises CheckpointError at notes in a checkpoint that Orbax does not write."""
    try:
        return ocp.CheckpointManager(folder, options=options)
    except Exception as error:
        raise CheckpointError(
            f"{folder} cannot be opened: {reason_of(error)}; move the checkpoint at fault away, or give another run"
        ) from error


def remove_remains(directory: epath.Path, seconds: float = 10.0) -> None:
    """Removes what a failed save has left half-written. Orbax's threads may still be writing there, so it looks again
    until nothing has come back, and never raises: what stays is removed when the run begins anew."""
    end, clean = time.monotonic() + seconds, 0
    while clean < 3 and time.monotonic() < end:
        remains = list(directory.glob("*.orbax-checkpoint-tmp*"))
        clean = 0 if remains else clean + 1
        for left in remains:
            with contextlib.suppress(OSError):
                left.rmtree(missing_ok=True)
        time.sleep(0.05)
