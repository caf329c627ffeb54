"""This machine alone: Python, libraries, processors, memory, disk, decoding, devices."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTHON = (3, 11)
SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
GIB = 2**30
NEEDED_DISK = 1 * GIB


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `fault` says what is wrong and the mend, '' where all is well."""

    name: str
    text: str
    fault: str = ""


def examine(workdir: str, timeout: float) -> Iterator[Finding]:
    """All findings, the quick ones first."""
    yield from examine_alone(workdir)
    yield from devices(timeout)


def examine_alone(workdir: str) -> Iterator[Finding]:
    """All findings for which no device is asked."""
    yield python_version()
    yield from libraries()
    yield processors()
    yield memory()
    if "://" not in workdir:  # a bucket is tried by the hosts that are to share it
        yield writable(Path(workdir))
    yield decoding()


def python_version() -> Finding:
    mend = "" if sys.version_info >= PYTHON else f"Python {PYTHON[0]}.{PYTHON[1]} or newer is needed"
    return Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", mend)


def libraries() -> Iterator[Finding]:
    """The installed versions against the lower bounds that mim_jax declares (the oldest it was tested with)."""
    bounds = lower_bounds()
    if not bounds:
        yield Finding("mim_jax", "not installed", "run `pip install .` in the clone: its requirements are not known")
    for name in dict.fromkeys((*SHOWN, *bounds)):
        finding = library(name, bounds.get(name, ""))
        if finding.fault or name in SHOWN:
            yield finding


def lower_bounds() -> dict[str, str]:
    """What an installed mim_jax requires, extras left out: name -> oldest version."""
    try:
        lines = importlib.metadata.requires("mim_jax") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)(?:\[[^]]*])?\s*>=\s*([\w.]+)", line) for line in lines if "extra ==" not in line)
    return {match[1]: match[2] for match in found if match}


def library(name: str, bound: str) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", f"pip install '{name}{f'>={bound}' if bound else ''}'")
    wanted = f" (tested from {bound})" if bound else ""
    old = bool(bound) and _release(version) < _release(bound)
    return Finding(name, version + wanted, f"older than tested: pip install '{name}>={bound}'" if old else "")


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def processors() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("processors", f"{usable} usable of {os.cpu_count()}")


def memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not every system tells
        return Finding("memory", "unknown")
    few = total < 2 * GIB
    return Finding(
        "memory", f"{total / GIB:.1f} GiB", "less than 2 GiB: training will run out of memory" if few else ""
    )


def writable(workdir: Path) -> Finding:
    """Writes and removes a file in the workdir, or in the nearest folder above it that exists."""
    folder = workdir.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"mim_jax")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        reason = error.strerror or error
        return Finding("run directory", str(folder), f"cannot be written ({reason}): choose another with --workdir")
    mend = "" if free > NEEDED_DISK else "less than 1 GiB free: checkpoints may not fit; choose another disk"
    return Finding("run directory", f"{folder} is writable, {free / GIB:.1f} GiB free", mend)


def decoding(seconds: float = 0.5) -> Finding:
    """Images per second that one thread decodes, measured on a photograph (640 x 427) that scikit-learn ships."""
    try:
        import numpy as np
        from sklearn import datasets

        from mim_jax.data.decode import decode, pixels

        photo = (Path(datasets.__file__).parent / "images" / "china.jpg").read_bytes()
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            shape = pixels(decode(photo, channels=3, dtype=np.dtype(np.uint8))).shape
            count += 1
        rate = count / (time.perf_counter() - start)
    except Exception as error:
        return Finding("decoding", "failed", f"{type(error).__name__}: {error}; reinstall pillow and scikit-learn")
    return Finding("decoding", f"{rate:.0f} JPEG images/s a thread ({shape[1]} x {shape[0]})")


def devices(timeout: float) -> Iterator[Finding]:
    """Asks JAX for its devices and one matrix product, in a process of its own, because a backend may hang."""
    command = [sys.executable, "-c", "from mim_jax.doctor.machine import probe; probe()"]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env={**os.environ, "PYTHONPATH": path}
        )
    except subprocess.TimeoutExpired:
        mend = (
            f"JAX did not answer in {timeout:g} s: another process may hold the device (a TPU serves one at a time), "
            "or its driver hangs; JAX_PLATFORMS=cpu works without it"
        )
        yield Finding("devices", "no answer", mend)
        return
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        asked = os.environ.get("JAX_PLATFORMS")
        why = f"JAX_PLATFORMS={asked} asks for a backend that does not start here" if asked else "no backend starts"
        yield Finding("devices", "JAX found none", f"{why} ({last}); try JAX_PLATFORMS=cpu")
        return
    yield found_devices(found)
    mend = "" if found["error"] < 1e-2 else f"a matrix product is wrong by {found['error']:.2g}: do not train here"
    yield Finding(
        "matrix product", f"{found['gflops']:.0f} GFLOP/s in float32 ({found['size']} x {found['size']})", mend
    )


def found_devices(found: dict[str, Any]) -> Finding:
    room = f", {found['memory'] / GIB:.1f} GiB each" if found["memory"] else ""
    text = f"{found['count']} x {found['kind']} ({found['platform']}){room}"
    idle = found["platform"] == "cpu" and shutil.which("nvidia-smi") and not os.environ.get("JAX_PLATFORMS")
    mend = "this machine has an NVIDIA driver, but JAX sees no GPU: pip install 'mim_jax[gpu]'" if idle else ""
    return Finding("devices", text, mend)


def probe(size: int = 1024, repeats: int = 5) -> None:
    """What `devices` runs in its own process: prints one JSON line about the devices and a matrix product."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    local = jax.local_devices()
    a = np.random.default_rng(0).standard_normal((size, size), np.float32) / size**0.5
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    result = product(a).block_until_ready()
    start = time.perf_counter()
    for _ in range(repeats):
        product(a).block_until_ready()
    seconds = (time.perf_counter() - start) / repeats
    answer = {
        "count": len(local),
        "kind": local[0].device_kind,
        "platform": local[0].platform,
        "memory": (local[0].memory_stats() or {}).get("bytes_limit", 0),
        "size": size,
        "gflops": 2 * size**3 / seconds / 1e9,
        "error": float(np.abs(np.asarray(result) - a @ a).max()),
    }
    print(json.dumps(answer))
