"""The training loop. It knows nothing about any method."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax.errors import ConfigError, MimError
from mim_jax.methods.base import Method, Variables
from mim_jax.training import flops, nonfinite, signals
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.feed import Feed
from mim_jax.training.host_memory import keep_freed_memory
from mim_jax.training.metrics import Writers
from mim_jax.training.program import build, step_settings
from mim_jax.training.progress import ProgressLine
from mim_jax.training.resolve import Plan, facts, plan, print_facts
from mim_jax.training.sharding import global_batch, make_mesh, replicated, to_mesh
from mim_jax.training.state import TrainState, run_key
from mim_jax.training.step import StepSettings

Tree = Any


@runtime_checkable
class Evaluator(Protocol):
    """Something that looks at the weights now and then."""

    name: str
    every_steps: int  # 0: never

    def __call__(self, variables: Variables, step: int) -> dict[str, float]:
        """Named numbers for the log; may write pictures."""
        ...


@runtime_checkable
class Data(Protocol):
    """What the loop asks of the training data."""

    records: int

    def open_at(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's batches from a step on."""
        ...


@dataclasses.dataclass
class Session:
    """A run in progress: the fixed parts that every function below needs."""

    config: ConfigDict
    workdir: Path
    method: Method
    mesh: Mesh
    plan: Plan
    settings: StepSettings
    key: jax.Array
    peak: float  # FLOP/s of all devices together
    writers: Writers
    checkpoints: Checkpoints


def train(
    config: ConfigDict,
    workdir: Path,
    method: Method,
    data: Data,
    evaluators: Callable[[Plan, Mesh, Writers], Sequence[Evaluator]] = lambda *_: (),
    teachers: Callable[[Tree], Tree] = lambda shapes: {},
    begin_with: Callable[[TrainState], TrainState] = lambda state: state,
) -> TrainState:
    """Trains until the last step, or until a signal asks to stop; continues a run that `workdir` holds.

    teachers: reads entries of `frozen` (tokenizers, teachers) from elsewhere, for a run that begins; takes the shapes.
    begin_with: changes the fresh state of a run that begins (`training.start`).

    Raises:
        ConfigError: a config that does not fit the data, the devices, or the run that is already in `workdir`.
        MimError: a loss that is not finite, under policy `stop`.
    """
    # ---- What is to be run -------------------------------------------------------------------------------------
    mesh = make_mesh(config.mesh)
    run = plan(config, data.records, mesh)
    settings = step_settings(config, run)
    check_same_run(config, workdir)
    batch = global_batch(next(data.open_at(0)), mesh)

    # ---- Shapes, shardings, the compiled step ------------------------------------------------------------------
    program = build(config, method, settings, mesh, batch)
    if program.on_cpu:
        keep_freed_memory()
    train_key = to_mesh(run_key(config.seed, "train"), replicated(mesh))
    compiled = program.step.lower(program.state, program.frozen, batch, train_key).compile()

    # ---- What it comes to, printed and kept before the first step ----------------------------------------------
    resolved = facts(config, method, run, mesh, program.params, data.records)
    resolved["memory of the compiled step"] = flops.compiled_memory(compiled)
    peak, source = flops.total_peak(list(mesh.devices.flat), config.training.precision)
    resolved["peak FLOP/s"] = {source: peak}  # what an MFU of 100 % would be
    if jax.process_index() == 0:
        print_facts(resolved)
        configs.save(config, workdir / "config.json")
        write_json(workdir / "resolved.json", resolved)

    # ---- State: restored if the run has begun, otherwise initialised where it will live --------------------------
    saved = config.training.checkpoint
    checkpoints = Checkpoints(
        workdir, keep=saved.keep, keep_best=saved.keep_best, metric=saved.metric, meta={"seed": config.seed}
    )

    def begin():
        state, frozen = program.init(run_key(config.seed, "init"), batch)
        state, read = begin_with(state), teachers(program.frozen)
        where = program.shardings[1]
        return state, {**frozen, **to_mesh(read, {name: where[name] for name in read})} if read else frozen

    state, frozen = restore_or(checkpoints, program.state, program.frozen, begin)
    writers = Writers(
        workdir,
        tensorboard=config.training.tensorboard,
        wandb=config.training.wandb,
        resumed_step=int(state.step),
        config=config.to_dict(),
    )
    session = Session(config, workdir, method, mesh, run, settings, train_key, peak, writers, checkpoints)
    try:
        return run_steps(session, compiled, state, frozen, data, evaluators(run, mesh, writers))
    finally:
        checkpoints.close()
        writers.close()


def restore_or(
    checkpoints: Checkpoints, abstract: TrainState, frozen_shapes: Tree, init: Callable[[], tuple[TrainState, Tree]]
) -> tuple[TrainState, Tree]:
    """The newest checkpoint, on the mesh that `abstract` names; a fresh state where there is none."""
    if checkpoints.latest_step() is None:
        state, frozen = init()
        checkpoints.save_frozen(frozen)
        return state, frozen
    state, _, step = checkpoints.restore(abstract)
    say(f"continuing at step {step}")
    return state, checkpoints.restore_frozen(frozen_shapes)


def run_steps(
    session: Session, compiled: Callable, state: TrainState, frozen: Tree, data: Data, evaluators: Sequence[Evaluator]
) -> TrainState:
    """Steps, logs, evaluates and saves from `state` on."""
    config, run, checkpoints = session.config, session.plan, session.checkpoints
    needed = session.method.flops()
    step = int(state.step)
    line = ProgressLine(run.total_steps, run.steps_per_epoch, config.training.batch_size, step=step)
    clock = checkpoints.clock(config.training.checkpoint.every_minutes)
    every_saved = run.steps(config.training.checkpoint.every_epochs)
    feed = Feed(data.open_at, session.mesh, step)
    in_flight: list[dict[str, jax.Array]] = []
    with signals.StopRequested() as stop:
        while step < run.total_steps:
            # ---- One step --------------------------------------------------------------------------------------
            state, scalars = compiled(state, frozen, feed.next(), session.key)
            step += 1
            in_flight.append(scalars)
            last = step == run.total_steps
            logging = step % config.training.log_every == 0 or last
            due = [e for e in evaluators if e.every_steps and (step % e.every_steps == 0 or last)]
            saving = last or (every_saved and step % every_saved == 0) or clock.due()
            stopping = stop.agreed(step)

            # ---- Not finite: nothing has moved since; look at it, then stop or leave that batch out --------------
            watched = in_flight if (logging or due or saving or stopping) else in_flight[:-2]
            in_flight = in_flight[len(watched) :]
            if any(bool(s["hold"]) for s in watched):
                state = handle_nonfinite(session, state, frozen, data)
                step, in_flight = int(state.step), []
                feed.seek(step)
                continue

            # ---- Log, evaluate, save -----------------------------------------------------------------------------
            if logging:
                values = {name: float(value) for name, value in scalars.items() if name not in ("hold", "step")}
                values |= line.rates(step, method_flops=needed, peak=session.peak)
                values |= {"data_wait": feed.waiting_share(), "epoch": step / run.steps_per_epoch}
                values["skipped"] = int(state.skipped)
                session.writers.write(step, values)
                line.update(step, values)
            with line.paused():
                results = evaluate(session, state, frozen, due, step)
                if saving or stopping or checkpoints.metric in results:
                    checkpoints.save(step, state, {"step": step}, results, force=True)
            if stopping:
                break
    feed.close()
    line.close()
    checkpoints.wait()
    if step < run.total_steps:
        say(f"stopped by a signal at step {step} of {run.total_steps}, saved; the same command continues from there")
    return state


def evaluate(
    session: Session, state: TrainState, frozen: Tree, due: Sequence[Evaluator], step: int
) -> dict[str, float]:
    """Runs the evaluators that are due and logs what they find."""
    results: dict[str, float] = {}
    for evaluator in due:
        results |= evaluator(Variables(state.weights(), state.extra, frozen), step)
    if results:
        session.writers.write(step, results)
    return results


def handle_nonfinite(session: Session, state: TrainState, frozen: Tree, data: Data) -> TrainState:
    """Writes the bundle of the step that failed; stops, or goes on after that batch.

    Raises:
        MimError: policy `stop`, or too many batches skipped in a row.
    """
    step, policy = int(state.step), session.config.training.on_nonfinite
    batches = data.open_at(step)
    batch = global_batch(next(batches), session.mesh)
    bundle = nonfinite.write_bundle(session.workdir, session.config, session.settings, state, frozen, batch)
    sentence = f"loss or gradient not finite at step {step}; `mim-jax doctor nan {bundle}` replays it"
    if policy == "stop":
        raise MimError(f"{sentence}; training.on_nonfinite=skip would leave the batch out")
    skipped = int(state.skipped) + 1
    if skipped > session.config.training.max_skipped:
        raise MimError(f"{sentence}; {skipped} batches were skipped, more than training.max_skipped allows")
    say(f"skipped: {sentence}")
    moved = {"step": state.step + 1, "skipped": state.skipped + 1, "hold": jnp.zeros_like(state.hold)}
    placed = {name: jax.device_put(value, getattr(state, name).sharding) for name, value in moved.items()}
    return state.replace(**placed)


def check_same_run(config: ConfigDict, workdir: Path) -> None:
    """Refuses to continue a run under another config.

    Raises:
        ConfigError: what the two configs differ in.
    """
    before = workdir / "config.json"
    if not before.exists():
        return
    changed = configs.diff(configs.load_json(before), config, only_what_matters=True)
    if changed:
        raise ConfigError(
            f"{workdir} holds a run with another config; use another --workdir or undo: " + "; ".join(changed)
        )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)


def say(sentence: str) -> None:
    """One line for the person at the terminal, once per run."""
    if jax.process_index() == 0:
        print(sentence, file=sys.stderr, flush=True)
