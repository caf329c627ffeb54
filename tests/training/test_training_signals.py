"""Signals ask once, then act; the clock says when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mim_jax.training.signals import SaveClock, StopRequested


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_only_asks(number, capfd):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequested() as stop:
        assert not stop.requested and not stop.agreed(1)
        os.kill(os.getpid(), number)
        time.sleep(0)  # a Python handler runs between two byte codes
        assert stop.requested and stop.agreed(2)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert f"{signal.Signals(number).name}: stopping after this step" in capfd.readouterr().err
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_handlers_are_put_back_without_a_signal():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), StopRequested():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        raise RuntimeError
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_second_signal_kills(root):
    program = """
import os, signal, time
from mim_jax.training.signals import StopRequested
with StopRequested() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)
    print("asked", stop.requested, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
    print("still here")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "asked True\n"
    assert done.returncode == -signal.SIGTERM


def test_outside_the_main_thread_it_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def use():
        with StopRequested() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_clock():
    now = [100.0]
    clock = SaveClock(2.0, now=lambda: now[0])
    now[0] += 119.0
    assert not clock.due()
    now[0] += 1.0
    assert clock.due() and clock.due()
    clock.reset()
    assert not clock.due()
    now[0] += 120.0
    assert clock.due()


def test_a_clock_of_zero_never_rings():
    now = [0.0]
    clock = SaveClock(0.0, now=lambda: now[0])
    now[0] += 1e9
    assert not clock.due()
