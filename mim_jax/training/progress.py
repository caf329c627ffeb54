"""The one line that says how a run is doing: live in a terminal, one plain line per report elsewhere."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax


class ProgressLine:
    """Shows epoch, step, loss, images/s, MFU, share of time waiting for data, and time left.

    Only the first process shows anything. stream: stderr by default; live: whether it is a terminal, by default asked
    of the stream.
    """

    def __init__(
        self,
        total_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        *,
        step: int = 0,
        shift: int = 0,
        stream: io.TextIOBase | None = None,
        live: bool | None = None,
        now: Callable[[], float] = time.perf_counter,
    ):
        self._total, self._per_epoch, self._batch, self._shift = total_steps, steps_per_epoch, batch_size, shift
        self._stream: Any = stream or sys.stderr
        self._now, self._since, self._step = now, now(), step
        self._display: _Display | None = None
        self._shown = jax.process_index() == 0
        if self._shown and (self._stream.isatty() if live is None else live):
            self._display = _Display(self._stream)

    def rates(self, step: int, *, method_flops: float, peak: float) -> dict[str, float]:
        """`images_per_sec` and `mfu` since the last call, or since the start; pauses are not counted.

        method_flops: training FLOPs per image. peak: FLOP/s of all devices together.
        """
        seconds = max(self._now() - self._since, 1e-9)
        images = max(step - self._step, 0) * self._batch / seconds  # after a failed step the count goes back
        self._since, self._step = self._now(), step
        return {"images_per_sec": images, "mfu": images * method_flops / peak}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here (evaluation, pictures) does not count as training time."""
        start = self._now()
        try:
            yield
        finally:
            self._since += self._now() - start

    def update(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows `values`: loss, images_per_sec, mfu, data_wait, each where present."""
        if not self._shown:
            return
        line = format_line(step, self._total, self._per_epoch, self._batch, values, self._shift)
        if self._display:
            self._display.update(line)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the last line standing; safe to call twice."""
        if self._display:
            self._display.stop()
            self._display = None


def format_line(
    step: int, total_steps: int, steps_per_epoch: int, batch_size: int, values: Mapping[str, Any], shift: int = 0
) -> str:
    """The line as text; what `values` lacks is left out. shift: steps by which the epochs are ahead of the steps."""
    epochs = [(number + shift) / steps_per_epoch for number in (step, total_steps)]
    parts = [f"epoch {epochs[0]:.2f}/{epochs[1]:g}", f"step {step}/{total_steps}"]
    for name, text in _SHOWN.items():
        if values.get(name) is not None:
            parts.append(text(float(values[name])))
    rate = values.get("images_per_sec") or 0.0
    if rate > 0:
        parts.append(f"{format_seconds((total_steps - step) * batch_size / rate)} left")
    return "  ".join(parts)


_SHOWN: dict[str, Callable[[float], str]] = {
    "loss": lambda value: f"loss {value:.4f}",
    "images_per_sec": lambda value: f"{value:,.0f} images/s" if value >= 100 else f"{value:.1f} images/s",
    "mfu": lambda value: f"MFU {value:.1%}",
    "data_wait": lambda value: f"data wait {value:.0%}",
}


def format_seconds(seconds: float | int) -> str:
    """'48 s', '3 min 20 s', '5 h 04 min' or '2 d 03 h'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


class _Display:
    """One line that is redrawn in place; whatever else is printed meanwhile appears above it."""

    def __init__(self, stream: Any):
        from rich.console import Console
        from rich.live import Live

        console = Console(file=stream, force_terminal=True)
        self._live = Live(console=console, refresh_per_second=4)
        self._live.start()

    def update(self, line: str) -> None:
        from rich.text import Text

        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def stop(self) -> None:
        self._live.stop()
