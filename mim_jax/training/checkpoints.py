"""Checkpoints of a run: one atomic set of items per step, written in the background by Orbax.

Each field of the training state that holds arrays is an item of its own, so that an evaluation reads `params` without
knowing the optimizer; single numbers share the item `counters`. Beside them stand `data` (the position in the data)
and `meta` (step, metrics and what the run adds, such as the seed), both JSON. No pickle anywhere.

A finished checkpoint gets digests of its files. What no longer agrees with them is damaged: a run sets it aside, into
`checkpoints/damaged`, and goes on from the one before; a reader names it and touches nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mim_jax.errors import CheckpointError
from mim_jax.training import bucket, checkpoint_frozen, room
from mim_jax.training import checkpoint_digests as digests
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
from mim_jax.training.checkpoint_options import (
    absolute,
    is_full,
    lowest_is_best,
    opened,
    options_of,
    quiet,
    reason_of,
    remove_remains,
    steps_in,
    why_not,
)
from mim_jax.training.signals import SaveClock

__all__ = ["Checkpoints", "DamagedError", "params_hash", "quiet"]

DAMAGED = "damaged"

Tree = Any
Which = int | Literal["best"] | None


class DamagedError(CheckpointError):
    """A checkpoint that is not what was written."""


class Checkpoints:
    """The checkpoints of one run, under `workdir/checkpoints`. Every process of the run makes one and calls the same.

    keep: the last n are kept. keep_best: and the best by `metric` among those saved with it, the lowest where its name
        ends in 'loss', else the highest.
    meta: further facts for the `meta` item, such as the seed.
    read_only: for readers, also beside a running training; touches nothing.
    trouble(step, kind, sentence): is told of what the run survives: a checkpoint that could not be written (kind
        'disk full') or that is damaged ('damaged checkpoint'). Without it a failed save raises.

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
        trouble: Callable[[int, str, str], None] | None = None,
    ):
        quiet()
        self._small_files = Path(workdir)
        self.workdir = absolute(bucket.home(workdir))
        self.directory = self.workdir / "checkpoints"
        self.metric, self.meta = metric, dict(meta or {})
        self._clock: SaveClock | None = None
        if read_only and not self.directory.exists():
            raise CheckpointError(f"{workdir} holds no checkpoints; train there first, or name another run directory")
        self._trouble, self._writing, self._lost = trouble, -1, -1
        self._options = options_of(max(keep, 1), keep_best, metric, read_only, self._finished)
        self._manager = self._open(read_only)

    def _open(self, read_only: bool) -> ocp.CheckpointManager:
        try:
            return ocp.CheckpointManager(self.directory, options=self._options)
        except Exception as error:  # Orbax reads the metrics of every step at once, and stumbles over any
            for step in reversed(steps_in(self.directory)):
                if reason := digests.fault(self.directory / str(step)):
                    if read_only:
                        raise self._damaged(step, reason) from error
                    self._move(step, DAMAGED)
                    self._tell(step, "damaged checkpoint", self._set_aside_sentence(step, reason))
        return opened(self.directory, self._options)

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
        if self._clock:
            self._clock.reset()
        self.wait()
        if jax.process_count() > 1 and (why := room.agreed_lack(self.directory, dict(state_items(state)))):
            if self._trouble is None:
                raise CheckpointError(f"the checkpoint of step {step} could not be written ({why}); make room")
            self._lost = step
            self._tell(step, "disk full", self._lost_sentence(step, why))
            return False
        with self._failure(step):
            bucket.push(self._small_files)  # what was logged before a checkpoint is never behind it
            self._writing = step
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=judged, force=True)
        return self._lost != step

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

    def restore_sound(self, abstract_state: Any, before: int | None = None) -> tuple[Any, DataState, int] | None:
        """`restore` of the newest checkpoint (of a step up to `before`) that is undamaged; None where there is none.

        Damaged ones on the way are set aside, into `checkpoints/damaged`, and told of.

        Raises:
            CheckpointError: all that there were are damaged; or a sound one has other shapes.
        """
        self.wait()
        for step in reversed([s for s in self.all_steps() if before is None or s <= before]):
            reason = self._agreed_fault(step)
            if not reason:
                try:
                    return self.restore(abstract_state, step)
                except DamagedError as error:
                    if jax.process_count() > 1:  # the others may have read it well
                        raise
                    reason = reason_of(error.__cause__ or error)
            self.set_aside(step, DAMAGED)
            self._tell(step, "damaged checkpoint", self._set_aside_sentence(step, reason))
        if not self.all_steps() and (damaged := steps_in(self.directory / DAMAGED)):
            raise CheckpointError(
                f"all checkpoints of {self.workdir} are damaged (steps {', '.join(map(str, damaged))}, set aside in "
                f"{self.directory / DAMAGED}); put one back from a copy into {self.directory}, or begin anew in "
                "another --workdir"
            )
        return None

    def set_aside(self, step: int, where: str) -> None:
        """Moves a checkpoint into `checkpoints/<where>`, where no one looks for checkpoints; nothing is deleted."""
        if jax.process_index() == 0:
            self._move(step, where)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} set aside")
        self._manager.reload()

    def restore_params(self, abstract: Mapping[str, Tree | None], step: Which = None) -> tuple[dict[str, Tree], int]:
        """({field: tree}, step): only the named fields of the state, such as params, ema and extra.

        abstract: shapes by field, placed by their shardings or else on one local device. None asks for what is
        stored, as nested dicts; it is {} for a field without arrays.

        Raises:
            CheckpointError: as `restore`.
        """
        step = self._pick(step)
        if reason := digests.fault(self.directory / str(step), abstract):
            raise self._damaged(step, reason)
        stored = self._stored(step, [name for name, tree in abstract.items() if tree is None])
        shapes = {name: _shapes(stored.get(name, {})) if tree is None else tree for name, tree in abstract.items()}
        wanted = {name: placed(tree) for name, tree in shapes.items() if jax.tree.leaves(tree)}
        return {**shapes, **self._read(step, wanted)}, step

    def read_meta(self, step: Which = None) -> dict[str, Any]:
        """The `meta` item: step, metrics and what the run added."""
        return dict(self._read(self._pick(step), {}, ("meta",))["meta"])

    def save_frozen(self, frozen: Tree) -> None:
        """Writes `frozen` to `workdir/frozen`, once per run; nothing if it holds no arrays or is already there."""
        checkpoint_frozen.save(self.workdir / "frozen", frozen)

    def restore_frozen(self, abstract: Tree) -> Tree:
        """The `frozen` tree of the run, placed as `abstract` says.

        Raises:
            CheckpointError: it is missing, damaged or of other shapes.
        """
        return checkpoint_frozen.restore(self.workdir / "frozen", abstract)

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
        best = min if lowest_is_best(self.metric) else max
        return best(values, key=lambda step: values[step]) if values else None

    def wait(self) -> None:
        """Returns when all that was saved is on disk, or has failed to be."""
        with self._failure(self._writing):
            self._manager.wait_until_finished()
        if self._writing < 0:
            return
        folder = self.directory / str(self._writing)
        if jax.process_index() == 0 and (folder / digests.FILE).exists():
            with contextlib.suppress(OSError):
                digests.add_digests(folder)
        if 0 <= self._lost < self._writing:
            self._tell(self._writing, "disk has space", f"the checkpoint of step {self._writing} is written again")
            self._lost = -1
        self._writing = -1

    def poll(self) -> None:
        """Notices early that a save has failed; costs nothing while one is under way."""
        if self._writing >= 0 and jax.process_count() == 1 and not self._manager.is_saving_in_progress():
            self.wait()

    def close(self) -> None:
        """Waits, then lets go of Orbax's threads; safe to call twice."""
        self.wait()
        self._manager.close()

    def _finished(self) -> None:
        """Runs in Orbax's thread when all files of a checkpoint are written, just before it gets its name."""
        if jax.process_index() != 0:
            return
        names = (f"{self._writing}.orbax-checkpoint-tmp", str(self._writing))  # a bucket's has its name at once
        for folder in (self.directory / name for name in names):
            if folder.exists():
                with contextlib.suppress(OSError):  # a full disk: the checkpoint is whole all the same
                    digests.write_digests(folder)
                return

    @contextlib.contextmanager
    def _failure(self, step: int):
        """A save that fails is told of, and its remains, which fill the disk, are removed."""
        try:
            yield
        except Exception as error:
            if self._trouble is None or jax.process_count() > 1:  # the other processes would wait for this one
                raise
            self._lost, self._writing = step, -1
            # A new one in its place: its threads keep further errors, and it had counted on removing older checkpoints.
            with contextlib.suppress(Exception):
                self._manager.close()
            remove_remains(self.directory)
            self._manager = self._open(read_only=False)
            kind = "disk full" if is_full(error) else "checkpoint not written"
            self._tell(step, kind, self._lost_sentence(step, why_not(error)))

    def _lost_sentence(self, step: int, why: str) -> str:
        kept = f"the one of step {self.all_steps()[-1]} is kept" if self.all_steps() else "there is no earlier one"
        return f"the checkpoint of step {step} could not be written ({why}); {kept}, training goes on"

    def _tell(self, step: int, kind: str, sentence: str) -> None:
        if self._trouble:
            self._trouble(step, kind, sentence)

    def _set_aside_sentence(self, step: int, reason: str) -> str:
        where = self.directory / DAMAGED
        return f"the checkpoint {self.directory / str(step)} is damaged ({reason}) and set aside in {where}"

    def _agreed_fault(self, step: int) -> str:
        """What is wrong with a checkpoint, looked up by the first process for all."""
        reason = digests.fault(self.directory / str(step)) if jax.process_index() == 0 else ""
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.asarray(bool(reason))):
            return reason or "process 0 says how"
        return reason

    def _move(self, step: int, where: str) -> None:
        folder = self.directory / where
        folder.mkdir(parents=True, exist_ok=True)
        names = [str(step), *(f"{step}.{number}" for number in range(2, 1000))]
        target = next(folder / name for name in names if not (folder / name).exists())
        (self.directory / str(step)).rename(target)

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

    def _damaged(self, step: int, error: Exception | str) -> DamagedError:
        earlier = [s for s in steps_in(self.directory) if s < step]
        mend = (
            f"take step {earlier[-1]}, or let `mim-jax train` set it aside and go on from there"
            if earlier
            else "there is no earlier one to go on from"
        )
        reason = error if isinstance(error, str) else reason_of(error)
        return DamagedError(f"the checkpoint {self.directory / str(step)} is damaged ({reason}); {mend}")


def _shapes(stored: Tree) -> Tree:
    return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), stored)
