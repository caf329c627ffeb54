"""What the loop does about a step that went wrong: stop, leave its batch out, or go back."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from mim_jax.errors import MimError
from mim_jax.training import nonfinite
from mim_jax.training.session import Data, Fault, Session
from mim_jax.training.sharding import global_batch
from mim_jax.training.state import TrainState

Tree = Any
REWOUND = "rewound"  # folder of checkpoints that the run has gone back behind


def handle(session: Session, fault: Fault, state: TrainState, frozen: Tree, data: Data) -> TrainState:
    """The state to go on from after a fault.

    Raises:
        MimError: policy `stop`, or too many batches left out.
    """
    if fault.kind == "spike":
        session.left_out.spikes.append(fault.step)
        leave = session.left_out.around(fault.step)
        return go_back(session, state, fault, leave, f"the loss jumped to {fault.loss:.4g} at step {fault.step}")
    what = "loss or gradient" if fault.kind == "not finite" else "a value that the step has updated is"
    sentence = f"{what} not finite at step {fault.step}; {_bundle(session, fault, state, frozen, data)}"
    training = session.config.training
    if training.on_nonfinite == "stop":
        raise MimError(f"{sentence}; training.on_nonfinite=skip would leave the batch out")
    out = session.left_out
    for_spikes = {step for spike in out.spikes for step in out.around(spike)}
    skipped = int(state.skipped) + len(out.steps - for_spikes) + 1
    if skipped > training.max_skipped:
        raise MimError(f"{sentence}; {skipped} batches were skipped, more than training.max_skipped allows")
    if fault.kind == "spoiled":
        return go_back(session, state, fault, {fault.step}, sentence)
    session.events.add(fault.step, "skipped batch", f"skipped: {sentence}")
    moved = {"step": state.step + 1, "skipped": state.skipped + 1, "hold": jnp.zeros_like(state.hold)}
    return _with(state, moved)


def go_back(session: Session, state: TrainState, fault: Fault, leave: Iterable[int], why: str) -> TrainState:
    """The state of the newest checkpoint before the steps to leave out, or of step 0; later ones are set aside."""
    leave, checkpoints = sorted(leave), session.checkpoints
    checkpoints.wait()
    for step in [s for s in checkpoints.all_steps() if s > leave[0]]:
        checkpoints.set_aside(step, REWOUND)
    for leaf in jax.tree.leaves(state):
        leaf.delete()  # there may not be room for two
    session.left_out.steps |= set(leave)
    found = checkpoints.restore_sound(session.abstract, before=leave[0])
    state, kept = found[:2] if found else (session.begin()[0], {})
    session.left_out.go_back_to(kept if isinstance(kept, dict) else {})
    step = int(state.step)
    session.writers.cut(step)
    named = f"batch {leave[0]} is" if len(leave) == 1 else f"batches {leave[0]} to {leave[-1]} are"
    session.events.add(
        fault.step, "rewind", f"{why}; going back to step {step}, and {named} left out", to=step, left_out=leave
    )
    return state


def leave_out(state: TrainState) -> TrainState:
    """The state after a step whose batch is left out: the same, one step on."""
    return _with(state, {"step": state.step + 1})


def is_full(error: OSError) -> bool:
    """Whether the disk is what is wrong."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _with(state: TrainState, moved: dict[str, jax.Array]) -> TrainState:
    placed = {name: jax.device_put(value, getattr(state, name).sharding) for name, value in moved.items()}
    return state.replace(**placed)


def _bundle(session: Session, fault: Fault, state: TrainState, frozen: Tree, data: Data) -> str:
    """Writes what is needed to look at the step again; says how to."""
    batch = global_batch(next(data.open_at(fault.step)), session.mesh)
    try:
        folder, first = nonfinite.write_bundle(
            session.workdir, session.config, session.settings, state, frozen, batch, fault.step
        )
    except OSError as error:
        if not is_full(error):
            raise
        return "the disk is full, so there is no bundle to replay it"
    return f"first non-finite array: {first}; `mim-jax doctor nan {folder}` replays it"
