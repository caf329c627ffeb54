"""Asking a run to stop or to save, and agreeing on it between processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopRequested:
    """While open, the first SIGTERM or SIGINT (control-C) sets `requested`; the next one acts as it always did.

    In a run of several processes SIGTERM belongs to JAX's runtime, which tells the other processes; the first
    control-C is passed on to it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def agreed(self, step: int) -> bool:
        """Whether to save and stop after `step`; the same answer on every process, at the same step.

        To be asked once a step with the number of steps done. A process that is told to stop cannot stop alone: the
        others would wait for it in the next collective. JAX's runtime finds a step that none has passed yet, without
        any collective of its own.
        """
        if jax.process_count() == 1:
            return self.requested
        return multihost_utils.reached_preemption_sync_point(step)

    def __enter__(self) -> StopRequested:
        if threading.current_thread() is threading.main_thread():
            signals = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)
            self._before = {number: signal.signal(number, self._caught) for number in signals}
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _caught(self, number: int, frame) -> None:
        del frame
        self.requested = True
        self._restore()
        # os.write and not print: a signal may arrive in the middle of a print.
        sentence = f"\n{signal.Signals(number).name}: stopping after this step; once more stops at once\n"
        os.write(2, sentence.encode())
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class SaveClock:
    """Says when `every_minutes` have passed since it was made or reset; never where they are 0.

    In a run of several processes the first one's clock decides, and is asked on every 50th call only, since the
    answer has to travel; so every process must ask equally often.
    """

    ASK_EVERY = 50

    def __init__(self, every_minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = 60 * every_minutes, now
        self._calls = 0
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self._start = self._now()

    def due(self) -> bool:
        """Whether it is time; the same answer on every process."""
        if self._seconds <= 0:
            return False
        late = self._now() - self._start >= self._seconds
        if jax.process_count() == 1:
            return late
        self._calls += 1
        if self._calls % self.ASK_EVERY:
            return False
        return bool(multihost_utils.broadcast_one_to_all(np.asarray(late)))
