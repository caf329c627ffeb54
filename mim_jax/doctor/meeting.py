"""The hosts of a run tell each other what they found, before JAX is asked for anything.

JAX's own runtime ends a process, and names nobody, when another one does not come. So the doctor's processes meet by
plain TCP at the address that the run will use for its coordinator: lines of JSON, gathered by process 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from dataclasses import dataclass
from typing import Any

from mim_jax.distributed import GIVEN, surrounded
from mim_jax.errors import ConfigError

LONGEST = 1 << 20  # bytes of a message; more is not from a doctor
GREETING = "mim-jax doctor"


@dataclass(frozen=True)
class Place:
    """Where this process stands: host:port of process 0, how many there are, which one this is, names where known."""

    address: str
    count: int
    number: int
    names: tuple[str, ...] = ()

    def name(self, number: int) -> str:
        known = f" ({self.names[number]})" if number < len(self.names) else ""
        return f"process {number}{known}"


def place(timeout: float) -> Place | None:
    """From the three JAX_... variables, or found by JAX on a pod, GKE or Slurm; None where this process is alone.

    Raises:
        ConfigError: the variables do not agree.
    """
    address, count, number = (os.environ.get(name, "") for name in GIVEN)
    if address or count or number:
        if not (":" in address and count.isdigit() and number.isdigit() and int(number) < int(count)):
            raise ConfigError(
                f"{GIVEN[0]}={address or '(none)'}, {GIVEN[1]}={count or '(none)'} and {GIVEN[2]}={number or '(none)'} "
                "do not agree; give host:port of process 0, the number of processes, and which one this is, from 0"
            )
        return Place(address, int(count), int(number), names(int(count))) if int(count) > 1 else None
    return _detected(timeout) if surrounded() else None


def _detected(timeout: float) -> Place | None:
    from jax._src import clusters  # the only place that knows pods, GKE and Slurm; initialize() itself asks it

    # (address, count, number, local devices), as jax.distributed.initialize finds them
    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(timeout))
    except RuntimeError as error:
        raise ConfigError(f"the surroundings name other hosts that cannot be found: {error}") from error
    address, count, number = found[:3]
    if not address or not count or count < 2 or number is None:
        return None
    return Place(address, count, number, names(count))


def names(count: int) -> tuple[str, ...]:
    """Names of the hosts in the order of processes, from TPU or Slurm; () where there are not as many."""
    listed = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    found = listed.split(",") if listed else expand(os.environ.get("SLURM_STEP_NODELIST", ""))
    return tuple(found) if len(found) == count else ()


def expand(nodes: str) -> list[str]:
    """['a1', 'a2', 'b'] of Slurm's 'a[1-2],b'."""
    found = []
    for prefix, inside in re.findall(r"([^,\[]+)(?:\[([^\]]*)\])?", nodes):
        for part in inside.split(",") if inside else [""]:
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1) if first else []
            found += [f"{prefix}{n:0{len(first)}d}" for n in numbers] or [prefix]
    return found


class Missing(Exception):
    """Processes that did not come, or left. numbers: which ones."""

    def __init__(self, numbers: list[int]):
        super().__init__(numbers)
        self.numbers = numbers


class Line:
    """A connection that carries JSON, one message a line."""

    def __init__(self, call: socket.socket):
        self.socket, self.file = call, call.makefile("rwb")

    def write(self, values: dict[str, Any]) -> None:
        self.file.write(json.dumps(values).encode() + b"\n")
        self.file.flush()

    def read(self, end: float) -> Any:
        """The next message. Raises OSError or ValueError where there is none by then."""
        self.socket.settimeout(max(end - time.monotonic(), 0.05))
        text = self.file.readline(LONGEST)
        if not text.endswith(b"\n"):
            raise ValueError("the other side has gone")
        return json.loads(text)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        self.socket.close()


class Meeting:
    """All processes of a run, gathered by number 0 at the coordinator's address.

    offset: seconds by which this host's clock is ahead of process 0's; uncertain: half the round trip it was measured
    with. complete: whether all have come.
    """

    def __init__(self, here: Place, timeout: float):
        self.here, self.timeout = here, timeout
        self.offset = self.uncertain = 0.0
        self.complete = False
        self._lines: dict[int, Line] = {}  # of process 0: to everybody; of the others: to process 0

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *_: Any) -> None:
        for line in self._lines.values():
            line.close()

    def gather(self) -> None:
        """Waits until all have come.

        Raises:
            Missing: who had not at the end of the time-out.
            ConfigError: process 0 cannot open the port.
        """
        end = time.monotonic() + self.timeout
        if self.here.number:
            self._reach(end)
        else:
            self._await(end)
        self.exchange({}, self.timeout)
        self.complete = True

    def _await(self, end: float) -> None:
        """Process 0: takes calls until all others have called."""
        port = self.here.address.rpartition(":")[2]
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        try:
            door = socket.create_server(("", int(port)), family=family, dualstack_ipv6=dual, backlog=self.here.count)
        except OSError as error:
            raise ConfigError(
                f"port {port}, where the processes of a run meet, cannot be opened ({error.strerror}): another run may "
                "hold it; end that, or choose another port"
            ) from error
        with door:
            while len(self._lines) < self.here.count - 1 and time.monotonic() < end:
                door.settimeout(max(end - time.monotonic(), 0.05))
                try:
                    line = Line(door.accept()[0])
                except OSError:
                    continue
                if not self._admit(line):
                    line.close()

    def _admit(self, line: Line) -> bool:
        """Whether the caller is one of the others; a stranger shall not hold them up."""
        try:
            greeting = line.read(time.monotonic() + 5)
            number = int(greeting["number"])
            if greeting["greeting"] != GREETING or not 0 < number < self.here.count:
                return False
            line.write({"time": time.time()})
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if number in self._lines:  # it called again, after a time-out of its own
            self._lines[number].close()
        self._lines[number] = line
        return True

    def _reach(self, end: float) -> None:
        """Another process: calls process 0 until it answers, and compares clocks."""
        host, _, port = self.here.address.rpartition(":")
        while time.monotonic() < end:
            try:
                line = Line(socket.create_connection((host.strip("[]"), int(port)), max(end - time.monotonic(), 0.05)))
                before = time.time()
                line.write({"greeting": GREETING, "number": self.here.number})
                answer = float(line.read(end)["time"])
            except (OSError, ValueError, KeyError, TypeError):
                time.sleep(0.2)
                continue
            after = time.time()
            self.offset, self.uncertain = (before + after) / 2 - answer, (after - before) / 2
            self._lines = {0: line}
            return
        raise Missing([0])

    def exchange(self, values: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
        """What every process gave, in the order of processes. seconds: how long one may take for it; the others wait
        for process 0 a little longer, because it waits for the slowest.

        Raises:
            Missing: who did not give anything.
        """
        end = time.monotonic() + seconds
        if self.here.number:
            try:
                self._lines[0].write(values)
                answer = self._lines[0].read(end + seconds + 10)
            except (OSError, ValueError):
                raise Missing([0]) from None
        else:
            found: dict[int, Any] = {0: values}
            for number, line in self._lines.items():
                with contextlib.suppress(OSError, ValueError):
                    found[number] = line.read(end)
            missing = sorted(set(range(self.here.count)) - set(found))
            answer = {"missing": missing, "all": [] if missing else [found[n] for n in range(self.here.count)]}
            for line in self._lines.values():
                with contextlib.suppress(OSError):
                    line.write(answer)
        if answer["missing"]:
            raise Missing(answer["missing"])
        return answer["all"]
