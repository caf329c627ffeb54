"""One command as a process of its own: what stops us stops it, gently, and it is waited for."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A signal asked us to stop."""


def run(argv: Sequence[str]) -> int:
    """Runs `mim-jax ARGV` and returns its exit code.

    The command has a session of its own, so that a control-C reaches it once, through us: training then saves and ends.

    Raises:
        Stopped: a signal came; the command has ended.
    """
    command = [sys.executable, "-m", "mim_jax", *argv]
    with subprocess.Popen(command, start_new_session=True) as process, _forwarded(process) as seen:
        code = process.wait()
    if seen:
        raise Stopped(signal.Signals(seen[0]).name)
    return code


@contextmanager
def _forwarded(process: subprocess.Popen) -> Iterator[list[int]]:
    """While open, signals go on to the process; the list holds those that came."""
    seen: list[int] = []

    def forward(number: int, frame: Any) -> None:
        del frame
        seen.append(number)
        process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
