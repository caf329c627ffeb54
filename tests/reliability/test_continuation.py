"""A run that is killed and continued is the run that nothing disturbed: same losses, same records, same weights."""

from __future__ import annotations

import os
import random
import signal

import pytest
import real_runs as real

from mim_jax.training.runs import load_run

KILLS = int(os.environ.get("MIM_JAX_TRIALS", "10"))  # of each system


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """{system: workdir} of runs to their end, made when first asked for."""
    made = {}

    def run(system: str, **changes):
        key = (system, *changes.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp(system)
            done = real.finish(real.command(system, made[key], **changes))
            assert done.returncode == 0, done.stderr
        return made[key]

    return run


def same_run(ours, theirs) -> bool:
    equal = real.losses(ours) == real.losses(theirs) and real.records(ours) == real.records(theirs)
    return equal and real.seen_once(ours) and load_run(ours).checkpoint_hash == load_run(theirs).checkpoint_hash


def test_one_kill(undisturbed, tmp_path, fault):
    theirs, ours = undisturbed("mae", training__epochs=2), tmp_path / "run"
    words = real.command("mae", ours, training__epochs=2)
    with real.started(words, tmp_path / "log") as process:
        assert real.kill("step", process, ours, tmp_path / "log", random.Random(1)) is not None
    done = real.finish(words)
    assert done.returncode == 0, done.stderr
    survived = same_run(ours, theirs)
    fault("SIGKILL in a step (mae, fast)", tried=1, survived=int(survived), lost="nothing")
    assert survived


@pytest.mark.slow
@pytest.mark.parametrize("system", list(real.SYSTEMS))
def test_killed_again_and_again(system, undisturbed, tmp_path, fault):
    """Losses bit for bit, records of every step, weights: as if it had never been killed."""
    theirs, ours, rng = undisturbed(system, training__epochs=6), tmp_path / "run", random.Random(system)
    tried = dict.fromkeys(real.MOMENTS, 0)
    for number in range(KILLS):
        moment = real.MOMENTS[number % len(real.MOMENTS)]
        workers = 1 if moment == "loader" else 0
        log = tmp_path / f"log_{number}"
        with real.started(real.command(system, ours, training__epochs=6, data__workers=workers), log) as process:
            killed = real.kill(moment, process, ours, log, rng)
        assert killed is not None, log.read_text()
        tried[moment] += 1
        assert real.gone(killed), "a worker process outlived the run"
    done = real.finish(real.command(system, ours, training__epochs=6))
    survived = done.returncode == 0 and same_run(ours, theirs)
    for moment, times in tried.items():
        fault(f"SIGKILL in a {moment} ({system})", tried=times, survived=times * survived, lost="nothing")
    assert survived, done.stderr


def test_preemption_loses_nothing(undisturbed, tmp_path, fault):
    """SIGTERM lets the step in flight end, saves it and ends with 0."""
    theirs, ours, log = undisturbed("mae", training__epochs=2), tmp_path / "run", tmp_path / "log"
    words = real.command("mae", ours, training__epochs=2)
    with real.started(words, log) as process:
        assert real.until(lambda: len(real.losses(ours)) >= 9, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, log.read_text()
    stopped = real.losses(ours)[-1][0]
    saved = load_run(ours).step
    done = real.finish(words)
    assert done.returncode == 0, done.stderr
    survived = same_run(ours, theirs) and saved == stopped
    fault("preemption (SIGTERM)", tried=1, survived=int(survived), lost="nothing: the step in flight was ended")
    assert survived
    assert [line["step"] for line in real.events(ours, "resume")] == [stopped]
