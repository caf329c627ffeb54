"""Runs of several real processes on this machine: JAX's distributed runtime over CPUs."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Any


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def flags(devices: int) -> str:
    """The tests' own flags of the compiler, with so many simulated devices."""
    return re.sub(r"(device_count=)\d+", rf"\g<1>{devices}", os.environ["XLA_FLAGS"])


def surroundings(count: int, number: int, port: int, devices: int = 1) -> dict[str, str]:
    """The environment of one of several processes, each with some simulated devices."""
    several = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count)}
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags(devices),
        **({**several, "JAX_PROCESS_ID": str(number)} if count > 1 else {}),
    }


def start(words: Sequence[str], count: int = 1, devices: int = 1, errors: Any = PIPE) -> list[subprocess.Popen]:
    """`mim-jax` with these words, in `count` processes."""
    return start_words([sys.executable, "-m", "mim_jax", *words], count, devices, errors=errors)


def start_words(
    words: Sequence[str],
    count: int = 1,
    devices: int = 1,
    extra: Mapping[str, str] | None = None,
    only: Sequence[int] | None = None,
    errors: Any = PIPE,
) -> list[subprocess.Popen]:
    """A command in `count` processes. extra: more of the environment. only: the processes that really start. errors: a
    file for what all of them say, to be read while they run."""
    port = free_port()
    return [
        subprocess.Popen(
            words,
            env=surroundings(count, number, port, devices) | dict(extra or {}),
            stdout=PIPE,
            stderr=errors,
            text=True,
        )
        for number in (range(count) if only is None else only)
    ]


def finish(processes: Sequence[subprocess.Popen], timeout: float = 300) -> list[tuple[int, str, str]]:
    """(exit status, output, errors) of each; none is left behind."""
    try:
        ended = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, ended, strict=True)]


def run(words: Sequence[str], count: int = 1, devices: int = 1, timeout: float = 300) -> list[tuple[int, str, str]]:
    ended = finish(start(words, count, devices), timeout)
    assert all(code == 0 for code, _, _ in ended), "\n".join(errors[-3000:] for _, _, errors in ended)
    return ended


def folder(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
