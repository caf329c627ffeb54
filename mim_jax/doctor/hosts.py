"""All hosts of a run together: who has come, whether they are alike, share a workdir, and can exchange numbers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from mim_jax import __version__
from mim_jax.doctor.machine import SHOWN, Finding, examine_alone, found_devices
from mim_jax.doctor.meeting import Meeting, Missing

SKEW = 5.0  # seconds by which two clocks may differ: logs and locks of different hosts are compared by time
READ_SECONDS = 2.0
Facts = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """Devices and hosts that there should be; 0: not said."""

    devices: int = 0
    hosts: int = 0


def alone(expected: Expected, data: str, timeout: float) -> Iterator[Finding]:
    """What is asked of a single machine beside its examination."""
    if expected.hosts > 1:
        yield Finding(
            "hosts",
            f"1 of {expected.hosts}",
            "this process stands alone: start the doctor on every host by the launcher (docs/launch.md), or set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID",
        )
    if expected.devices:
        probed = probe(timeout)
        yield from counted(probed, expected, [probed], [socket.gethostname()])
    if data:
        yield from reading([read_rate(data)], [socket.gethostname()])


def together(meeting: Meeting, workdir: str, timeout: float, expected: Expected, data: str) -> Iterator[Finding]:
    """All findings, the quick ones first; ends at the first that makes the others meaningless."""
    here = meeting.here
    try:
        meeting.gather()
        start = time.monotonic()
        mine = facts(meeting, workdir, data)
        yield from _coming(here.count, expected)
        everybody = meeting.exchange(mine, timeout + READ_SECONDS)
        called = [f"{here.name(n)} on {one['host']}" for n, one in enumerate(everybody)]
        yield from alike(everybody, called)
        yield clocks(everybody, called)
        for name, one in zip(called, everybody, strict=True):
            for title, text, fault in one["faults"]:
                yield Finding(title, f"{name}: {text}", fault)
        token = everybody[0]["token"]
        yield shared_workdir(meeting, workdir, token, called, timeout)
        if data:
            yield from reading([one["read"] for one in everybody], called)
        answers = meeting.exchange(probe(timeout, processes=here.count), 3 * timeout)
        yield from counted(answers[0], expected, answers, called)
        yield from reduced(answers, called)
        if here.number == 0:
            yield Finding("time", f"{time.monotonic() - start:.1f} s")
    except Missing as missing:
        yield absent(meeting, missing.numbers, timeout)


def _coming(count: int, expected: Expected) -> Iterator[Finding]:
    wrong = expected.hosts and expected.hosts != count
    fault = f"{expected.hosts} were expected: the run was started with another number of processes" if wrong else ""
    yield Finding("hosts", f"{count} of {count} came", fault)


def absent(meeting: Meeting, numbers: Sequence[int], timeout: float) -> Finding:
    here = meeting.here
    who = ", ".join(here.name(n) for n in numbers)
    did = "did not answer" if here.number else "did not come" if not meeting.complete else "stopped answering"
    mend = f"{who} {did} within {timeout:g} s: see whether the host is up and was given the same command"
    reach = f"that it can reach {here.address}" if numbers != [0] else f"that {here.address} can be reached from here"
    return Finding("hosts", f"{here.count - len(numbers)} of {here.count} came", f"{mend}, and {reach}")


# ---- What one host says of itself ------------------------------------------------------------------------------------


def facts(meeting: Meeting, workdir: str, data: str) -> Facts:
    """Of this host, ready for JSON. Its own examination is told by its faults alone."""
    return {
        "host": socket.gethostname(),
        "versions": versions(),
        "offset": meeting.offset,
        "uncertain": meeting.uncertain,
        "token": os.urandom(6).hex(),
        "faults": [(f.name, f.text, f.fault) for f in examine_alone(workdir) if f.fault],
        "read": read_rate(data) if data else {},
    }


def versions() -> dict[str, str]:
    """Of what must be the same everywhere: programs are compiled on every host and must be equal."""
    found = {"mim_jax": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for name in (*SHOWN, "libtpu", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def read_rate(data: str, seconds: float = READ_SECONDS) -> Facts:
    """Records of a source, or of the source of a config, that one thread reads in a second; {'error': ...} where none.

    The records are spread over the whole source, from another start on every host.
    """
    from mim_jax import config as configs
    from mim_jax.data.sources import open_source
    from mim_jax.errors import MimError

    try:
        spec = configs.load(data).data.source if data.partition(":")[0].endswith(".py") else data
        source = open_source(spec)
        count = size = 0
        position, begin = os.getpid() * 7919, time.monotonic()
        while time.monotonic() < begin + seconds and count < len(source):
            image = source[position % len(source)]["image"]
            size += len(image) if isinstance(image, bytes) else image.nbytes
            count, position = count + 1, position + max(1, len(source) // 97)
        spent = time.monotonic() - begin
    except (MimError, OSError, ImportError) as error:
        return {"error": str(error)}
    return {"source": spec, "records": len(source), "rate": count / spent, "bytes": size / spent}


def probe(timeout: float, processes: int = 1) -> Facts:
    """Devices, a matrix product and a sum over all devices, tried in a process of its own, because a backend may hang
    or take its process down; {'error': ...} where that happened."""
    command = [sys.executable, "-c", f"from mim_jax.doctor.exchange import probe; probe({timeout!r})"]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout * (2 if processes > 1 else 1),  # to find each other, and to answer
            env={**os.environ, "PYTHONPATH": path},
        )
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {timeout:g} s: another process may hold the devices, or a driver hangs"}
    except (IndexError, ValueError):
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith((" ", "*"))]
        return {"error": f"{(lines or ['nothing was said'])[-1][:300]} (exit code {done.returncode})"}


# ---- What the hosts say together -------------------------------------------------------------------------------------


def alike(everybody: Sequence[Facts], called: Sequence[str]) -> Iterator[Finding]:
    """The same versions everywhere."""
    names = dict.fromkeys(name for one in everybody for name in one["versions"])
    differing = 0
    for name in names:
        having: dict[str, list[str]] = {}
        for who, one in zip(called, everybody, strict=True):
            having.setdefault(one["versions"].get(name, "none"), []).append(who)
        if len(having) > 1:
            differing += 1
            most = max(having, key=lambda version: len(having[version]))
            odd = "; ".join(f"{version} on {_few(who)}" for version, who in having.items() if version != most)
            mend = f"{most} on {_few(having[most])}, but {odd}: install the same everywhere"
            yield Finding(name, "differs between hosts", mend)
    if not differing:
        shown = ", ".join(f"{name} {everybody[0]['versions'][name]}" for name in names if name in ("jax", "libtpu"))
        yield Finding("versions", f"the same on all hosts ({shown})")


def _few(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def clocks(everybody: Sequence[Facts], called: Sequence[str]) -> Finding:
    """The largest difference between two clocks, measured against process 0 by one question and its answer."""
    offsets = [one["offset"] for one in everybody]
    skew, uncertain = max(offsets) - min(offsets), max(one["uncertain"] for one in everybody)
    fast, slow = (called[offsets.index(pick(offsets))] for pick in (max, min))
    mend = f"{fast} is {skew:.1f} s ahead of {slow}: set the clocks (chrony or ntpd)" if skew > SKEW + uncertain else ""
    return Finding("clocks", f"{1000 * skew:.1f} ms apart at most (known to {1000 * uncertain:.1f} ms)", mend)


def shared_workdir(meeting: Meeting, workdir: str, token: str, called: Sequence[str], timeout: float) -> Finding:
    """Every host writes a small file, and reads back that of the next."""
    folder, here = nearest(workdir), meeting.here
    following = (here.number + 1) % here.count
    own, error = folder / f".doctor-{token}-{here.number}", ""
    try:
        own.write_text(str(here.number))
    except OSError as problem:
        error = f"cannot write there ({problem.strerror or problem})"
    try:
        written = meeting.exchange({"error": error}, timeout)
        there = not written[following]["error"]
        if not error and there and not _appears(folder / f".doctor-{token}-{following}", str(following)):
            error = f"does not see there what {called[following]} wrote"
        answers = meeting.exchange({"error": error, "folder": str(folder)}, timeout)
    finally:
        with contextlib.suppress(OSError):
            own.unlink()
    wrong = [f"{who} {one['error']}" for who, one in zip(called, answers, strict=True) if one["error"]]
    mend = f"{_few(wrong)}: give a --workdir that all hosts can write and share (gs://bucket/run, or one network disk)"
    return Finding(
        "run directory", f"{answers[0]['folder']}, written and read by {here.count} hosts", mend if wrong else ""
    )


def nearest(workdir: str) -> epath.Path:
    """The workdir, or the nearest folder above it that exists; a bucket has no folders to ask for."""
    folder = epath.Path(workdir)
    if "://" in workdir:
        return folder
    folder = epath.Path(Path(workdir).absolute())
    while not folder.exists():
        folder = folder.parent
    return folder


def _appears(path: epath.Path, text: str, tries: int = 20) -> bool:
    """Whether a file is there with its text; network disks may show it a little later."""
    for _ in range(tries):
        with contextlib.suppress(OSError):
            if path.read_text() == text:
                return True
        time.sleep(0.25)
    return False


def reading(rates: Sequence[Facts], called: Sequence[str]) -> Iterator[Finding]:
    """How fast records come, host by host."""
    bad = [(who, one["error"]) for who, one in zip(called, rates, strict=True) if "error" in one]
    for who, error in bad:
        yield Finding("data", f"cannot be read on {who}", error)
    if not bad:
        values = [one["rate"] for one in rates]
        counts = {one["records"] for one in rates}
        mend = f"the hosts see different numbers of records ({sorted(counts)}): point all at the same data"
        yield Finding(
            "data",
            f"{rates[0]['source']}: {min(values):.0f} to {max(values):.0f} records/s by one thread "
            f"({min(one['bytes'] for one in rates) / 1e6:.1f} MB/s at least)",
            mend if len(counts) > 1 else "",
        )


def counted(whole: Facts, expected: Expected, answers: Sequence[Facts], called: Sequence[str]) -> Iterator[Finding]:
    """Devices seen, against those expected; who has fewer than the others."""
    bad = [(who, one["error"]) for who, one in zip(called, answers, strict=True) if "error" in one]
    for who, error in bad:
        yield Finding("devices", f"none on {who}", error)
    if bad:
        return
    finding = found_devices(whole | {"count": whole["devices"]})
    seen, most = whole["devices"], max(one["count"] for one in answers)
    few = [f"{one['count']} on {who}" for who, one in zip(called, answers, strict=True) if one["count"] < most]
    fault = finding.fault
    if expected.devices and seen != expected.devices:
        fault = f"{expected.devices} were expected: {_few(few) or 'every host has as many as the others'}"
    elif few:
        fault = f"the hosts differ: {_few(few)}, {most} on the others"
    yield Finding(finding.name, f"{finding.text}, {len(answers)} processes", fault)


def reduced(answers: Sequence[Facts], called: Sequence[str]) -> Iterator[Finding]:
    """The sum over all devices: right, and how fast."""
    if any("error" in one for one in answers):
        return
    wrong = [who for who, one in zip(called, answers, strict=True) if not one["right"]]
    slowest = max(answers, key=lambda one: one["seconds"])
    rate = slowest["bytes"] / slowest["seconds"] / 1e9
    yield Finding(
        "all-reduce",
        f"{slowest['bytes'] / 1e6:.0f} MB over {slowest['devices']} devices in {1000 * slowest['seconds']:.2f} ms "
        f"({rate:.2f} GB/s; {2 * (slowest['devices'] - 1) / slowest['devices'] * rate:.2f} GB/s each way by a ring)",
        f"the sum is wrong on {_few(wrong)}: do not train here" if wrong else "",
    )
