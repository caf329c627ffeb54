"""Which devices the program that is being traced is for."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

TENSOR_AXIS = "tensor"  # of a mesh: shares out attention heads and hidden units


@dataclasses.dataclass(frozen=True)
class Target:
    """mesh: devices, which need not be at hand. batch_axes: its axes over which the first axis of every activation is
    split. interpret: run TPU kernels step by step on any device, as tests do."""

    mesh: Any
    batch_axes: tuple[str, ...]
    interpret: bool = False

    @property
    def on_tpu(self) -> bool:
        return self.interpret or self.mesh.devices.flat[0].platform == "tpu"

    @property
    def batch_shards(self) -> int:
        shards = 1
        for axis in self.batch_axes:
            shards *= self.mesh.shape[axis]
        return shards

    @property
    def tensor_shards(self) -> int:
        return dict(self.mesh.shape).get(TENSOR_AXIS, 1)

    @property
    def whole_activations(self) -> bool:
        """Whether activations are split along the batch alone."""
        return self.batch_shards == self.mesh.devices.size


_target: ContextVar[Target | None] = ContextVar("target", default=None)


@contextlib.contextmanager
def compiled_for(mesh: Mesh, batch_axes: tuple[str, ...], interpret: bool = False) -> Iterator[None]:
    """Inside, layers may use kernels of the mesh's devices. Outside, all programs are XLA's alone and run anywhere."""
    token = _target.set(Target(mesh, batch_axes, interpret))
    try:
        yield
    finally:
        _target.reset(token)


def target() -> Target | None:
    """Where the program that is being traced will run; None where nobody said."""
    return _target.get()


def split_batch(x: Array) -> Array:
    """Keeps the first axis of an activation shared out over the devices, where parameters are split too.

    Without it the compiler may follow the parameters' layout instead, and gather activations.
    """
    where = _target.get()
    if where is None or where.mesh.shape[where.batch_axes[0]] == where.mesh.devices.size:
        return x
    if x.shape[0] % where.batch_shards:
        return x
    spec = PartitionSpec(where.batch_axes, *([PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)))
    return jax.lax.with_sharding_constraint(x, NamedSharding(where.mesh, spec))
