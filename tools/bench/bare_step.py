"""What the benchmarks of mim_jax's own steps share: configs, synthetic batches, the compiled step alone, a report."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mim_jax import config as configs
from mim_jax import pretrain
from mim_jax.methods.base import Method
from mim_jax.training import compile_ahead
from mim_jax.training.host_memory import keep_freed_memory
from mim_jax.training.resolve import versions
from mim_jax.training.sharding import replicated, to_mesh
from mim_jax.training.state import run_key

ROOT = Path(__file__).resolve().parents[2]


def load(spec: str, overrides: Sequence[str] = ()) -> tuple[Any, Method]:
    """(config, method), checked. On a CPU the step computes in float32, unless an override says otherwise."""
    precise = ["training.precision=fp32"] if jax.default_backend() == "cpu" else []
    config = configs.load(spec, [*precise, *overrides])
    return config, pretrain.check_all(config)


def synthetic(shapes: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of noise in the shapes that `compile_ahead.batch_shapes` gives; every label is 0."""
    rng = np.random.default_rng(seed)
    batch = {name: np.zeros(s.shape, s.dtype) for name, s in shapes.items()}
    images = {name: rng.integers(0, 256, s.shape, np.uint8) for name, s in shapes.items() if s.dtype == np.uint8}
    return batch | images | {"index": np.arange(shapes["index"].shape[0], dtype=np.int32)}


class BareStep:
    """The program that the loop runs (`training.program.build`), on one batch that is already on the device.

    What the method holds in `frozen` is random: it costs what the real one costs. compiled_in: seconds.
    """

    def __init__(self, config: Any, method: Method):
        lowered = compile_ahead.lower(config, method)
        if lowered.program.on_cpu:
            keep_freed_memory()  # as the loop does
        start = time.perf_counter()
        self._compiled = lowered.compile()
        self.compiled_in = time.perf_counter() - start
        shapes = compile_ahead.batch_shapes(config, lowered.mesh)
        self._batch = {name: jax.device_put(v, shapes[name].sharding) for name, v in synthetic(shapes).items()}
        self._state, self._frozen = lowered.program.init(run_key(config.seed, "init"), self._batch)
        self._key = to_mesh(run_key(config.seed, "train"), replicated(lowered.mesh))
        self(2)  # warms up

    def __call__(self, steps: int = 1) -> float:
        """Seconds per step of so many steps, from the first call to the last result."""
        start = time.perf_counter()
        for _ in range(steps):
            self._state, scalars = self._compiled(self._state, self._frozen, self._batch, self._key)
        jax.block_until_ready((self._state, scalars))
        return (time.perf_counter() - start) / steps


def facts() -> dict[str, Any]:
    """The fields that end every report: the command, the machine, its load (of 1, 5, 15 minutes), the versions."""
    return {
        "command": "python " + shlex.join(sys.argv),
        "load": [round(load, 1) for load in os.getloadavg()],
        "machine": {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "system": platform.system(),
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        },
        "versions": versions(),
    }
