"""How fast a device can multiply, how fast a run does, and what the compiler says of a compiled step."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

# (words of jax's device_kind, bf16, fp32): dense FLOP/s of one jax device at the vendor's boost clock; the first match
# counts. fp32 is without TF32 and without emulation; None: not published or not in hardware. A jax device is a
# whole chip except on TPU v2, v3 and 7x, where it is one of the chip's two cores.
# TPU: cloud.google.com/tpu/docs, pages "TPU v2" to "TPU7x", row "Peak compute per chip"; v4i ("lite"): Jouppi et al.,
# ISCA 2021, table 1. NVIDIA: data sheets of V100, A100, H100, H200, GH200, HGX B200 and GB200; figures given with
# sparsity are halved.
_PEAKS: tuple[tuple[str, float | None, float | None], ...] = (
    ("TPU v2", 45e12 / 2, None),
    ("TPU v3", 123e12 / 2, None),
    ("TPU v4 lite", 138e12, None),
    ("TPU v4", 275e12, None),
    ("TPU v5 lite", 197e12, None),
    ("TPU v5e", 197e12, None),
    ("TPU v5", 459e12, None),
    ("TPU v5p", 459e12, None),
    ("TPU v6 lite", 918e12, None),
    ("TPU v6e", 918e12, None),
    ("TPU7x", 2307e12 / 2, None),
    ("V100-PCIE", None, 14e12),
    ("V100", None, 15.7e12),  # its tensor cores know fp16 only
    ("A100", 312e12, 19.5e12),
    ("H100 PCIe", 756e12, 51e12),
    ("H100 NVL", 835e12, 60e12),
    ("H100", 989e12, 67e12),
    ("H200 NVL", 835e12, 60e12),
    ("H200", 989e12, 67e12),
    ("GH200", 989e12, 67e12),
    ("B200", 2250e12, 75e12),
    ("GB200", 2500e12, 80e12),
)


@runtime_checkable
class Device(Protocol):
    """What is asked of a device here; topologies that are only compiled for offer it too."""

    @property
    def device_kind(self) -> str: ...

    @property
    def platform(self) -> str: ...

    @property
    def process_index(self) -> int: ...


def peak_flops(device: Device, precision: str) -> float | None:
    """Published dense FLOP/s of one device at precision 'bf16' or 'fp32'; None where none is known."""
    for name, bf16, fp32 in _PEAKS:
        if re.search(rf"\b{name}\b", device.device_kind):
            return bf16 if precision == "bf16" else fp32
    return None


def total_peak(devices: Sequence[Device], precision: str) -> tuple[float, str]:
    """(FLOP/s of all devices together, 'published' or 'measured'): what an MFU is a share of.

    Measured: what one device reaches in a large matrix product. A CPU counts once per process, since simulated
    devices share its cores.
    """
    published = [peak_flops(device, precision) for device in devices]
    if all(published):
        return sum(filter(None, published)), "published"
    processes = {device.process_index for device in devices}
    count = len(processes) if devices[0].platform == "cpu" else len(devices)
    return measure_matmul_flops(precision) * count, "measured"


@functools.cache
def measure_matmul_flops(precision: str = "fp32") -> float:
    """FLOP/s that the default device reaches in a large matrix product; takes well under a second, once a process."""
    device = jax.local_devices()[0]
    size = 1024 if device.platform == "cpu" else 8192
    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    with jax.default_device(device):
        matrix = jnp.ones((size, size), dtype)
        product = jax.jit(lambda a: jnp.dot(a, a, precision="highest" if precision == "fp32" else None))
        product(matrix).block_until_ready()
        best, end = float("inf"), time.perf_counter() + 0.3
        while best == float("inf") or time.perf_counter() < end:
            start = time.perf_counter()
            product(matrix).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def mfu(images_per_second: float, flops_per_image: float, peak: float) -> float:
    """Model FLOPs utilisation: FLOPs that the model needs, as a share of `peak` FLOP/s of all devices together.

    Recomputed activations do not count (PaLM, Chowdhery et al. 2022, appendix B).
    """
    return images_per_second * flops_per_image / peak


def compiled_flops(compiled: Any) -> float | None:
    """FLOPs of one call of a lowered or compiled function by XLA's own count; None where it gives none.

    Of a lowered function: of all devices; of a compiled one: of one device. Pitfall: the body of a loop (scan) counts
    once, however often it runs.
    """
    analysis = compiled.cost_analysis()
    if isinstance(analysis, list | tuple):
        analysis = analysis[0] if analysis else None
    flops = (analysis or {}).get("flops")
    return None if flops is None or flops < 0 else float(flops)


def compiled_memory(compiled: Any) -> dict[str, int]:
    """Bytes a device needs for one call of a compiled function; {} where XLA does not say.

    arguments, outputs, temporaries, code; total counts donated arguments once.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return {}
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    return {**parts, "total": sum(parts.values()) - analysis.alias_size_in_bytes}
