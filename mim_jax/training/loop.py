"""The training loop. It knows nothing about any method."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax.errors import CheckpointError
from mim_jax.methods.base import Method, Variables
from mim_jax.training import bucket, changes, flops, signals, trouble
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.course import Course, old_place
from mim_jax.training.events import Events, say
from mim_jax.training.feed import Feed
from mim_jax.training.host_memory import give_back, keep_freed_memory
from mim_jax.training.left_out import LeftOut
from mim_jax.training.lines import write_json
from mim_jax.training.lock import RunLock
from mim_jax.training.metrics import Writers
from mim_jax.training.program import Program, build, step_settings
from mim_jax.training.progress import ProgressLine
from mim_jax.training.record_log import RecordLog
from mim_jax.training.resolve import Plan, facts, plan, print_facts
from mim_jax.training.session import Data, Evaluator, Session
from mim_jax.training.sharding import global_batch, make_mesh, replicated, to_mesh
from mim_jax.training.state import TrainState, run_key

__all__ = ["Data", "Evaluator", "finished", "train"]

Tree = Any
EvaluatorsOf = Callable[[Plan, Mesh, Writers], Sequence[Evaluator]]


def train(
    config: ConfigDict,
    workdir: Path,
    method: Method,
    data: Data,
    evaluators: EvaluatorsOf = lambda *_: (),
    teachers: Callable[[Tree], Tree] = lambda shapes: {},
    begin_with: Callable[[TrainState], TrainState] = lambda state: state,
) -> TrainState:
    """Trains until the last step, or until a signal asks to stop; continues a run that `workdir` holds.

    teachers: reads entries of `frozen` (tokenizers, teachers) from elsewhere, for a run that begins; takes the shapes.
    begin_with: changes the fresh state of a run that begins (`training.start`).

    Raises:
        ConfigError: a config that does not fit the data, the devices, or the run that is already in `workdir`; or
            another process is writing there.
        CheckpointError: all checkpoints are damaged, or the last could not be written.
        MimError: a step that is not finite, under policy `stop`.
    """
    mesh = make_mesh(config.mesh)
    run = plan(config, data.records, mesh)  # refuses what cannot be, before anything is touched
    with contextlib.ExitStack() as stack:
        for place in bucket.places(workdir):
            stack.enter_context(RunLock(place))
        changed = changes.changed(config, workdir)

        # ---- Shapes and shardings ------------------------------------------------------------------------------
        batch = global_batch(next(data.open_at(0)), mesh)
        program = build(config, method, step_settings(config, run), mesh, batch)
        if program.on_cpu:
            keep_freed_memory()

        # ---- State: restored if the run has begun, otherwise initialised where it will live ----------------------
        events = Events(workdir)
        stack.callback(events.close)
        saved, meta = config.training.checkpoint, {"seed": config.seed}
        keep = dict(keep=saved.keep, keep_best=saved.keep_best, metric=saved.metric)
        checkpoints = Checkpoints(workdir, **keep, meta=meta, trouble=events.add)
        stack.callback(checkpoints.close)

        def begin():
            state, frozen = program.init(run_key(config.seed, "init"), batch)
            state, read = begin_with(state), teachers(program.frozen)
            where = program.shardings[1]
            return state, {**frozen, **to_mesh(read, {name: where[name] for name in read})} if read else frozen

        state, frozen, kept = restore_or(checkpoints, program, begin, events)
        step = events.step = int(state.step)
        left_out = LeftOut.from_config(config.training)
        left_out.go_back_to(kept)

        # ---- Where it stands in its data, also under another batch size -----------------------------------------
        if "epoch" not in kept:
            before: Any = changed.get("training.batch_size", (config.training.batch_size,))[0]
            kept = old_place(step, data.records, before)
        course = Course.going_on(kept, data.records, config.training.batch_size)
        if course.shift or course.lead:
            data.follow(course)  # type: ignore[attr-defined]
            run = plan(config, data.records, mesh, course.shift)
            program = build(config, method, step_settings(config, run), mesh, batch)

        # ---- The compiled step; what it comes to, printed and kept before the first step ------------------------
        train_key = to_mesh(run_key(config.seed, "train"), replicated(mesh))
        compiled = program.step.lower(program.state, program.frozen, batch, train_key).compile()
        peak, source = flops.total_peak(list(mesh.devices.flat), config.training.precision)
        resolved = facts(config, method, run, mesh, program.params, data.records)
        resolved["memory of the compiled step"] = flops.compiled_memory(compiled)
        resolved["peak FLOP/s"] = {source: peak}  # what an MFU of 100 % would be
        keep_facts(config, workdir, resolved, changed, events)

        writers = open_writers(config, workdir, events)
        stack.callback(writers.close)
        records = RecordLog(workdir, config.training.log_records, step)
        stack.callback(records.close)
        session = Session(
            config=config, workdir=workdir, method=method, mesh=mesh, plan=run, course=course,
            settings=step_settings(config, run), key=train_key, peak=peak, abstract=program.state, begin=begin,
            checkpoints=checkpoints, events=events, writers=writers, records=records, left_out=left_out,
        )  # fmt: skip
        return run_steps(session, compiled, state, frozen, data, evaluators(run, mesh, writers))


def keep_facts(
    config: ConfigDict,
    workdir: Path,
    resolved: dict[str, Any],
    changed: dict[str, tuple[object, object]],
    events: Events,
) -> None:
    """Prints what the config came to, and keeps it with the config and what changed in it since the run began."""
    step = events.step
    if jax.process_index() == 0:
        print_facts(resolved)
        changes.record(workdir, step, changed)
        configs.save(config, workdir / "config.json")
        write_json(workdir / "resolved.json", resolved)
    for key, (old, new) in changed.items():
        events.add(step, "changed config", f"{key}: {old!r} -> {new!r} from step {step} on")


def open_writers(config: ConfigDict, workdir: Path, events: Events) -> Writers:
    """The logs of a run that is at the step of `events`."""
    return Writers(
        workdir,
        tensorboard=config.training.tensorboard,
        wandb=config.training.wandb,
        resumed_step=events.step,
        config=config.to_dict(),
        trouble=lambda why: events.add(None, "disk full", f"{why}; what is logged waits in memory"),
        relief=lambda: events.add(None, "disk has space", "what was logged meanwhile is written"),
    )


def restore_or(
    checkpoints: Checkpoints, program: Program, begin: Callable[[], tuple[TrainState, Tree]], events: Events
) -> tuple[TrainState, Tree, Mapping[str, Any]]:
    """(state, frozen, what the checkpoint kept beside them): of the newest sound one, or of a run that begins."""
    found = checkpoints.restore_sound(program.state)
    if found is None:
        state, frozen = begin()
        checkpoints.save_frozen(frozen)
        return state, frozen, Course(1, 1).place(0)
    state, kept, step = found
    events.add(step, "resume", f"continuing at step {step}")
    return state, checkpoints.restore_frozen(program.frozen), kept if isinstance(kept, Mapping) else {}


def run_steps(
    session: Session, compiled: Callable, state: TrainState, frozen: Tree, data: Data, evaluators: Sequence[Evaluator]
) -> TrainState:
    """Steps, logs, evaluates and saves from `state` on."""
    config, run, checkpoints, events = session.config, session.plan, session.checkpoints, session.events
    needed = session.method.flops()
    step = begun = int(state.step)
    line = ProgressLine(run.total_steps, run.steps_per_epoch, config.training.batch_size, step=step, shift=run.shift)
    clock = checkpoints.clock(config.training.checkpoint.every_minutes)
    every_saved = run.steps(config.training.checkpoint.every_epochs)
    feed = Feed(data.open_at, session.mesh, step)
    in_flight: list[dict[str, jax.Array]] = []
    with signals.StopRequested() as stop:
        while step < run.total_steps:
            # ---- One step; where its batch is left out, nothing moves --------------------------------------------
            batch, leaving = feed.next(), step in session.left_out.steps
            if not leaving:
                state, scalars = compiled(state, frozen, batch, session.key)
                in_flight.append(scalars)
            session.records.write(step + 1, session.course.place(step)["epoch"], feed.index, leaving)
            step = events.step = step + 1
            last = step == run.total_steps
            logging = not leaving and (step % config.training.log_every == 0 or last)
            due = [e for e in evaluators if e.every_steps and (step % e.every_steps == 0 or last)]
            saving = last or (every_saved and step % every_saved == 0) or clock.due()
            stopping = stop.agreed(step)

            # ---- Gone wrong: look at it, then stop, leave that batch out, or go back -------------------------------
            watched = in_flight if (logging or due or saving or stopping or leaving) else in_flight[:-2]
            in_flight = in_flight[len(watched) :]
            if fault := session.judge(watched):
                state = trouble.handle(session, fault, state, frozen, data)
                step, in_flight = int(state.step), []
                session.records.cut(step)
                feed.seek(step)
                continue
            if leaving:
                state = trouble.leave_out(state)

            # ---- Log, evaluate, save -----------------------------------------------------------------------------
            if logging:
                values = {name: float(value) for name, value in scalars.items() if name not in NOT_LOGGED}
                values |= line.rates(step, method_flops=needed, peak=session.peak)
                values |= {"data_wait": feed.waiting_share(), "epoch": (step + run.shift) / run.steps_per_epoch}
                values["skipped"] = int(state.skipped)
                session.writers.write(step, values)
                line.update(step, values)
            checkpoints.poll()
            with line.paused():
                results = evaluate(session, state, frozen, due, step)
                if saving or stopping or checkpoints.metric in results:
                    checkpoints.save(step, state, session.position(step), results, force=True)
            if stopping:
                break
    feed.close()
    line.close()
    checkpoints.wait()
    if step > begun and checkpoints.latest_step() != step:
        raise CheckpointError(
            f"the state of step {step} could not be written to {session.workdir}; make room there, then the same "
            f"command goes on from step {checkpoints.latest_step() or 0}"
        )
    if step < run.total_steps:
        say(f"stopped by a signal at step {step} of {run.total_steps}, saved; the same command continues from there")
    return state


NOT_LOGGED = ("hold", "spoiled", "step")


def evaluate(
    session: Session, state: TrainState, frozen: Tree, due: Sequence[Evaluator], step: int
) -> dict[str, float]:
    """Runs the evaluators that are due and logs what they find."""
    results: dict[str, float] = {}
    for evaluator in due:
        try:
            results |= evaluator(Variables(state.weights(), state.extra, frozen), step)
        except OSError as error:
            if not trouble.is_full(error):
                raise
            session.events.add(step, "disk full", f"step {step}: no {evaluator.name}: {error}")
    if results:
        session.writers.write(step, results)
    if due:
        give_back()
    return results


def finished(workdir: Path, state: TrainState) -> bool:
    """Whether `train` has reached the last step; the same answer on every process, of which the first has the file."""
    total = json.loads((workdir / "resolved.json").read_text())["steps"]["total"] if jax.process_index() == 0 else 0
    if jax.process_count() > 1:
        total = int(multihost_utils.broadcast_one_to_all(np.asarray(total)))
    return int(state.step) >= total
