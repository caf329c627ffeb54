"""Checkpoints of a run: one atomic set of items per step, written in the background by Orbax.

Each field of the training state that holds arrays is an item of its own, so that an evaluation reads `params` without
knowing the optimizer; single numbers share the item `counters`. Beside them stand `data` (the position in the data)
and `meta` (step, metrics and what the run adds, such as the seed), both JSON. No pickle anywhere.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from mim_jax.errors import CheckpointError
from mim_jax.training.checkpoint_items import (
    DataState,
    compare,
    data_from_json,
    data_to_json,
    params_hash,
    placed,
    state_items,
    with_items,
)
from mim_jax.training.signals import SaveClock

__all__ = ["Checkpoints", "params_hash", "quiet"]

Tree = Any
Which = int | Literal["best"] | None


class Checkpoints:
    """The checkpoints of one run, under `workdir/checkpoints`. Every process of the run makes one and calls the same.

    keep: the last n are kept. keep_best: and the best by `metric` among those saved with it, the lowest where its name
        ends in 'loss', else the highest.
    meta: further facts for the `meta` item, such as the seed.
    read_only: for readers, also beside a running training; touches nothing.

    Raises:
        CheckpointError: read_only, and there is no such directory.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep: int = 2,
        keep_best: bool = True,
        metric: str = "knn",
        meta: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ):
        quiet()
        self.workdir = _absolute(workdir)
        self.directory = self.workdir / "checkpoints"
        self.metric, self.meta = metric, dict(meta or {})
        self._clock: SaveClock | None = None
        if read_only and not self.directory.exists():
            raise CheckpointError(f"{workdir} holds no checkpoints; train there first, or name another run directory")
        options = _options(max(keep, 1), keep_best, metric, read_only)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(
        self,
        step: int,
        state: Any,
        data_state: DataState = None,
        metrics: Mapping[str, float] | None = None,
        *,
        force: bool = False,
    ) -> bool:
        """Starts writing `state` (a dataclass of arrays and trees); False if there is nothing to do.

        The arrays are copied before this returns, so the next step may donate them. A step that is already saved is
        left alone, and without `force` so is every step before the latest. data_state: the position in the data, the
        same on every process. metrics: measured at this step; makes it a candidate for the best.
        """
        steps = self.all_steps()
        if step in steps or (steps and step < steps[-1] and not force):
            return False
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
        items: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in state_items(state).items()}
        items["data"] = ocp.args.JsonSave(data_to_json(data_state))
        items["meta"] = ocp.args.JsonSave({**self.meta, "step": step, "metrics": numbers})
        judged = {self.metric: numbers[self.metric]} if self.metric in numbers else None
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=judged, force=True)
        if self._clock:
            self._clock.reset()
        return True

    def restore(self, abstract_state: Any, step: Which = None) -> tuple[Any, DataState, int]:
        """(state, data position, step) of checkpoint `step` (None: the latest; 'best'; a number).

        abstract_state: the state as `jax.ShapeDtypeStruct`s; their shardings say where the arrays go, whatever the
        mesh was when they were written.

        Raises:
            CheckpointError: no such checkpoint, one that cannot be read, or one of other shapes.
        """
        step, wanted = self._pick(step), state_items(abstract_state)
        found = self._read(step, {name: placed(tree) for name, tree in wanted.items()}, ("data",))
        return with_items(abstract_state, {name: found[name] for name in wanted}), data_from_json(found["data"]), step

    def restore_params(self, abstract: Mapping[str, Tree | None], step: Which = None) -> tuple[dict[str, Tree], int]:
        """({field: tree}, step): only the named fields of the state, such as params, ema and extra.

        abstract: shapes by field, placed by their shardings or else on one local device. None asks for what is
        stored, as nested dicts; it is {} for a field without arrays.

        Raises:
            CheckpointError: as `restore`.
        """
        step = self._pick(step)
        stored = self._stored(step, [name for name, tree in abstract.items() if tree is None])
        shapes = {name: _shapes(stored.get(name, {})) if tree is None else tree for name, tree in abstract.items()}
        wanted = {name: placed(tree) for name, tree in shapes.items() if jax.tree.leaves(tree)}
        return {**shapes, **self._read(step, wanted)}, step

    def read_meta(self, step: Which = None) -> dict[str, Any]:
        """The `meta` item: step, metrics and what the run added."""
        return dict(self._read(self._pick(step), {}, ("meta",))["meta"])

    def save_frozen(self, frozen: Tree) -> None:
        """Writes `frozen` to `workdir/frozen`, once per run; nothing if it holds no arrays or is already there."""
        path = self.workdir / "frozen"
        if not jax.tree.leaves(frozen) or path.exists():
            return
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, frozen)
            checkpointer.wait_until_finished()

    def restore_frozen(self, abstract: Tree) -> Tree:
        """The `frozen` tree of the run, placed as `abstract` says.

        Raises:
            CheckpointError: it is missing, damaged or of other shapes.
        """
        if not jax.tree.leaves(abstract):
            return abstract
        path, mend = self.workdir / "frozen", "restore it from a copy of the run, or start a new workdir"
        if not path.exists():
            raise CheckpointError(f"{path} is missing, and the method has frozen parts; {mend}")
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                compare({"frozen": abstract}, {"frozen": checkpointer.metadata(path).item_metadata.tree}, str(path))
                return checkpointer.restore(path, placed(abstract))
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"{path} is damaged ({_reason(error)}); {mend}") from error

    def clock(self, every_minutes: float) -> SaveClock:
        """Says when to save by time; every save starts it anew."""
        self._clock = SaveClock(every_minutes)
        return self._clock

    def all_steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The best kept step by `metric`; None while none was saved with it."""
        judged = {step: self._manager.metrics(step) or {} for step in self.all_steps()}
        values = {step: metrics[self.metric] for step, metrics in judged.items() if self.metric in metrics}
        best = min if _lowest_is_best(self.metric) else max
        return best(values, key=lambda step: values[step]) if values else None

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of Orbax's threads."""
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _pick(self, step: Which) -> int:
        """The number of an existing checkpoint, all of whose files are there."""
        self.wait()
        steps = self.all_steps()
        if not steps:
            raise CheckpointError(f"{self.directory} holds no finished checkpoint; train longer, or name another run")
        known = f"it has {', '.join(map(str, steps))}"
        if step is None:
            return steps[-1]
        if step == "best":
            best = self.best_step()
            if best is None:
                raise CheckpointError(f"{self.directory} has no checkpoint saved with '{self.metric}'; {known}")
            return best
        if step not in steps:
            raise CheckpointError(f"{self.directory} has no step {step}; {known}")
        return int(step)

    def _stored(self, step: int, names: Sequence[str]) -> dict[str, Tree]:
        """{item: tree of array descriptions} of those of the named items that a checkpoint has."""
        folder, handler = self.directory / str(step), ocp.StandardCheckpointHandler()
        try:
            return {name: handler.metadata(folder / name).tree for name in names if (folder / name).exists()}
        except Exception as error:
            raise self._damaged(step, error) from error

    def _read(self, step: int, wanted: Mapping[str, Tree], texts: Sequence[str] = ()) -> dict[str, Any]:
        """Restores trees and JSON items, after a look at the shapes: Orbax's own complaints name no parameter."""
        if wanted:
            compare(wanted, self._stored(step, tuple(wanted)), str(self.directory / str(step)))
        args: dict[str, Any] = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        args |= {name: ocp.args.JsonRestore() for name in texts}
        if not args:
            return {}
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**args))
            return {name: found[name] for name in args}
        except Exception as error:
            raise self._damaged(step, error) from error

    def _damaged(self, step: int, error: Exception) -> CheckpointError:
        earlier = [s for s in self.all_steps() if s < step]
        mend = f"move it away to go on from step {earlier[-1]}" if earlier else "there is no earlier one to go on from"
        return CheckpointError(f"the checkpoint {self.directory / str(step)} is damaged ({_reason(error)}); {mend}")


def quiet() -> None:
    """Leaves only errors of Orbax's log, which otherwise reports every file."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


def _options(keep: int, keep_best: bool, metric: str, read_only: bool) -> ocp.CheckpointManagerOptions:
    lowest = _lowest_is_best(metric)

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
    )


def _lowest_is_best(metric: str) -> bool:
    return metric.endswith("loss")


def _shapes(stored: Tree) -> Tree:
    return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), stored)


def _absolute(workdir: str | Path) -> epath.Path:
    """Orbax wants absolute paths; bucket addresses such as gs://... stay what they are."""
    return epath.Path(workdir).expanduser().resolve()


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
