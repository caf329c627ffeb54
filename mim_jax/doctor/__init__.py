"""`mim-jax doctor`: is this machine, or are all hosts of a run, fit to train, and if not, what is the mend."""

from __future__ import annotations

import os
from collections.abc import Iterable

from mim_jax.doctor import hosts
from mim_jax.doctor.hosts import Expected
from mim_jax.doctor.machine import Finding, examine
from mim_jax.doctor.meeting import Meeting, place

__all__ = ["Expected", "Finding", "doctor", "examine"]


def doctor(
    workdir: str | os.PathLike[str] = "runs", *, timeout: float = 60.0, expected: Expected | None = None, data: str = ""
) -> bool:
    """Prints what it finds about this machine and, where it is one of several, about all, and returns whether all is
    well. Process 0 prints; the others only their verdict.

    workdir: where runs are to be written; it is tried, not created. timeout: seconds that a device, or another host,
    may take to answer. expected: how many devices and hosts there should be. data: a data source, or a config file, of
    which every host reads some records.

    Raises:
        ConfigError: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID do not agree.
    """
    expected = expected or Expected()
    here = place(timeout)
    if here is None:
        return show([*examine(os.fspath(workdir), timeout), *hosts.alone(expected, data, timeout)])
    if here.number == 0:
        print(f"{here.count} processes, this is number 0; the others meet at {here.address}", flush=True)
    with Meeting(here, timeout) as meeting:
        return show(hosts.together(meeting, os.fspath(workdir), timeout, expected, data), quiet=here.number > 0)


def show(findings: Iterable[Finding], *, quiet: bool = False) -> bool:
    """Prints findings as they come, and the verdict. quiet: the faults alone."""
    faults = 0
    for finding in findings:
        if finding.fault or not quiet:
            print(f"  {'!!' if finding.fault else 'ok'}  {finding.name:<16} {finding.text}", flush=True)
        if finding.fault:
            faults += 1
            print(f"      {finding.fault}", flush=True)
    print("all is well" if not faults else f"{faults} fault{'s' if faults > 1 else ''}; each line above names its mend")
    return not faults
