"""Peak rates, the measured fallback, and XLA's own counts."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import pytest

from mim_jax.training import flops


def device(kind: str, platform: str = "gpu", process: int = 0):
    return types.SimpleNamespace(device_kind=kind, platform=platform, process_index=process)


@pytest.mark.parametrize(
    ("kind", "bf16", "fp32"),
    [
        ("TPU v3", 61.5e12, None),
        ("TPU v4", 275e12, None),
        ("TPU v5 lite", 197e12, None),
        ("TPU v5", 459e12, None),
        ("TPU v5p", 459e12, None),
        ("TPU v6 lite", 918e12, None),
        ("TPU7x", 1153.5e12, None),
        ("Tesla V100-SXM2-16GB", None, 15.7e12),
        ("Tesla V100-PCIE-32GB", None, 14e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 67e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA H100 NVL", 835e12, 60e12),
        ("NVIDIA H200", 989e12, 67e12),
        ("NVIDIA GH200 480GB", 989e12, 67e12),
        ("NVIDIA B200", 2250e12, 75e12),
        ("NVIDIA GB200", 2500e12, 80e12),
        ("NVIDIA RTX A1000", None, None),
        ("cpu", None, None),
    ],
)
def test_published_peaks(kind, bf16, fp32):
    assert flops.peak_flops(device(kind), "bf16") == bf16
    assert flops.peak_flops(device(kind), "fp32") == fp32


def test_published_peaks_of_many_devices_add_up():
    devices = [device("NVIDIA H100 80GB HBM3", process=i // 8) for i in range(16)]
    assert flops.total_peak(devices, "bf16") == (16 * 989e12, "published")


def test_a_cpu_counts_once_however_many_devices_it_plays(monkeypatch):
    monkeypatch.setattr(flops, "measure_matmul_flops", lambda precision: {"bf16": 3.0, "fp32": 5.0}[precision])
    assert flops.total_peak(jax.devices(), "fp32") == (5.0, "measured")
    assert flops.total_peak([device("cpu", "cpu", process=i // 4) for i in range(8)], "bf16") == (6.0, "measured")
    assert flops.total_peak([device("Some GPU")] * 4, "fp32") == (20.0, "measured")


def test_the_measurement_is_plausible_and_kept():
    rate = flops.measure_matmul_flops("fp32")
    assert 1e8 < rate < 1e15
    assert flops.measure_matmul_flops("fp32") == rate


def test_mfu():
    assert flops.mfu(1000.0, 6e9, 2 * 60e12) == pytest.approx(0.05)


def test_counted_flops_of_a_matrix_product():
    lowered = jax.jit(lambda a, b: a @ b).lower(jnp.ones((32, 64)), jnp.ones((64, 16)))
    assert flops.compiled_flops(lowered) == pytest.approx(2 * 32 * 64 * 16, rel=0.01)
    assert flops.compiled_flops(lowered.compile()) == pytest.approx(2 * 32 * 64 * 16, rel=0.01)


def test_flops_that_xla_does_not_know():
    for answer in (None, [], {}, {"flops": -1.0}):
        assert flops.compiled_flops(types.SimpleNamespace(cost_analysis=lambda a=answer: a)) is None
    assert flops.compiled_flops(types.SimpleNamespace(cost_analysis=lambda: [{"flops": 8.0}])) == 8.0


def test_memory_of_a_compiled_function():
    x = jnp.ones((256, 256))
    plain = flops.compiled_memory(jax.jit(lambda a: a + 1).lower(x).compile())
    assert plain["arguments"] == plain["outputs"] == 256 * 256 * 4
    donated = flops.compiled_memory(jax.jit(lambda a: a + 1, donate_argnums=0).lower(x).compile())
    assert plain["total"] - donated["total"] == 256 * 256 * 4
    assert flops.compiled_memory(types.SimpleNamespace(memory_analysis=lambda: None)) == {}
