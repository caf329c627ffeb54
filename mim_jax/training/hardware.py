"""Chips by name: what they compute, hold and move, from what their makers publish.

TPU: docs.cloud.google.com/tpu/docs, pages v4, v5e, v5p, v6e (rows on HBM, inter-chip interconnect, pod size, vCPUs of a
VM); v4's links: Jouppi et al., ISCA 2023, table 4. NVIDIA: data sheets of A100 80GB SXM, H100 SXM and H200 SXM (memory,
NVLink) and of the DGX of each (network, 200 or 400 Gb/s a GPU); vCPUs: Google's a2-ultragpu-8g, a3-highgpu-8g,
a3-ultragpu-8g. Rates of arithmetic: `training.flops`.
"""

from __future__ import annotations

import dataclasses
import os
import time

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, nearest
from mim_jax.training import flops

GB, GIB = 1e9, float(2**30)


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, counted as jax counts devices.

    memory: bytes. bandwidth: bytes/s to it. link: bytes/s that one chip sends to the `domain` chips it is wired to, all
    links together, one direction. outside: bytes/s a chip beyond those (0: nothing is published for a single chip).
    cores: of the host, for each chip.
    """

    name: str
    device_kind: str
    platform: str
    memory: float
    bandwidth: float
    link: float
    domain: int
    outside: float
    cores: int | float
    process_index: int = 0

    def peak(self, precision: str) -> float:
        """FLOP/s at 'bf16' or 'fp32'. A TPU has no published rate for fp32: jax multiplies float32 there in one bf16
        pass by default, so its bf16 rate stands for both."""
        rate = flops.peak_flops(self, precision) or flops.peak_flops(self, "bf16")
        return rate or flops.measure_matmul_flops(precision)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", "tpu", 32 * GIB, 1228 * GB, 300 * GB, 4096, 0.0, 60),
        Chip("v5e", "TPU v5e", "tpu", 16 * GIB, 819 * GB, 200 * GB, 256, 0.0, 28),
        Chip("v5p", "TPU v5p", "tpu", 95 * GIB, 2765 * GB, 600 * GB, 6144, 0.0, 52),
        Chip("v6e", "TPU v6e", "tpu", 32 * GIB, 1640 * GB, 400 * GB, 256, 0.0, 45),
        Chip("a100", "NVIDIA A100", "gpu", 80 * GB, 2039 * GB, 300 * GB, 8, 25 * GB, 12),
        Chip("h100", "NVIDIA H100", "gpu", 80 * GB, 3350 * GB, 450 * GB, 8, 50 * GB, 26),
        Chip("h200", "NVIDIA H200", "gpu", 141 * GB, 4800 * GB, 450 * GB, 8, 50 * GB, 28),
    )
}
HERE = "here"


def chip(name: str) -> Chip:
    """A chip by name; `here` is this machine.

    Raises:
        ConfigError: no such chip, with the nearest name.
    """
    if name == HERE:
        return this_machine()
    if name.lower() not in CHIPS:
        raise ConfigError(f"device '{name}' is not known{nearest(name, [*CHIPS, HERE])}")
    return CHIPS[name.lower()]


def this_machine() -> Chip:
    """The devices at hand: published figures where the chip is known, otherwise measured (under a second).

    A CPU counts as one chip, however many devices it plays.
    """
    device = jax.devices()[0]
    for known in CHIPS.values():
        if flops.peak_flops(known, "bf16") == flops.peak_flops(device, "bf16") is not None:
            stats = device.memory_stats() or {}
            memory = float(stats.get("bytes_limit", known.memory))
            return dataclasses.replace(known, name=HERE, memory=memory, device_kind=device.device_kind)
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if device.platform != "cpu":
        memory = float((device.memory_stats() or {}).get("bytes_limit", memory))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Chip(HERE, device.device_kind, device.platform, memory, measure_bandwidth(), 0.0, 1, 0.0, cores)


def measure_bandwidth() -> float:
    """Bytes/s that the default device moves when it adds one to a large array: read and written once each."""
    values = jnp.zeros(2**25, jnp.float32)
    add = jax.jit(lambda x: x + 1.0)
    add(values).block_until_ready()
    best, end = float("inf"), time.perf_counter() + 0.3
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        add(values).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * values.nbytes / best
