"""Devices as a named mesh, and where every array lies on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from mim_jax.errors import ConfigError
from mim_jax.section import Section
from mim_jax.training.groups import path_name

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # over which a batch is split
# Tensor parallelism: the first layer of a pair is split by its outputs, the second by its inputs, so that what lies
# between stays where it is (Shoeybi et al. 2019, section 3). The fused kernel of queries, keys and values is kept by
# its inputs and put into the order of heads when it is used (`nn.heads_dense`). Biases are small and stay whole.
TENSOR_RULES = (
    (r"/attn/qkv/kernel$", ("tensor", "")),
    (r"/attn/(q|k|v)/kernel$", ("", "tensor")),
    (r"/attn/proj/kernel$", ("tensor", "")),
    (r"/mlp/fc1/kernel$", ("", "tensor")),
    (r"/mlp/fc2/kernel$", ("tensor", "")),
)
SMALL = 2**14  # arrays with fewer values are kept whole on every device: splitting them costs more than it saves
Tree = Any
Rules = Sequence[tuple[str, Sequence[str]]]


def make_mesh(sizes: Section, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with axes data, fsdp and tensor; -1 takes all devices that are left.

    Raises:
        ConfigError: sizes that do not multiply to the number of devices.
    """
    devices = list(jax.devices()) if devices is None else list(devices)
    shape = [int(sizes[axis]) for axis in AXES]
    fixed = int(np.prod([s for s in shape if s != -1]))
    if shape.count(-1) > 1 or min(s for s in (*shape, 1) if s != -1) < 1:
        raise ConfigError(
            f"mesh {dict(zip(AXES, shape, strict=True))}: sizes must be positive, and at most one may be -1"
        )
    if len(devices) % fixed or (-1 not in shape and fixed != len(devices)):
        raise ConfigError(
            f"mesh {dict(zip(AXES, shape, strict=True))} does not fit {len(devices)} devices; "
            "set mesh.data to -1 and let the others multiply to a divisor of that number"
        )
    shape = [len(devices) // fixed if s == -1 else s for s in shape]
    return Mesh(np.asarray(devices).reshape(shape), AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split over data and fsdp together."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(tree: Tree, mesh: Mesh, rules: Rules = ()) -> Tree:
    """A sharding for every leaf of a state (arrays or shapes), optimizer moments and averages included.

    rules: (regular expression on the '/'-joined path, mesh axis or '' per dimension), first match wins; a leaf that
    matches none is split over tensor as TENSOR_RULES say, and its largest other dimension that fsdp divides over fsdp
    (without tensor, one of tensor's if there is no other); small leaves stay whole.

    Raises:
        ConfigError: a rule that names an unknown axis or does not fit the array.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _sharding(path_name(path), leaf, mesh, rules), tree)


def _sharding(name: str, leaf: Any, mesh: Mesh, rules: Rules) -> NamedSharding:
    shape = np.shape(leaf)
    for pattern, axes in rules:
        # Scalars and optimizer counters can share a path with a parameter; a rule is about arrays of its rank.
        if re.search(pattern, name) and len(axes) == len(shape):
            return NamedSharding(mesh, _rule_spec(name, pattern, tuple(axes), shape, mesh))
    if int(np.prod(shape)) < SMALL:
        return replicated(mesh)
    split = [""] * len(shape)
    for pattern, wanted in TENSOR_RULES:
        if len(wanted) == len(shape) and re.search(pattern, name):
            fits = all(not axis or size % mesh.shape[axis] == 0 for size, axis in zip(shape, wanted, strict=True))
            split = list(wanted) if fits else split
    divided = [d for d, size in enumerate(shape) if size % mesh.shape["fsdp"] == 0]
    # A dimension of tensor's comes last, and only where tensor does not need it.
    free = [d for d in divided if not split[d]] or (divided if mesh.shape["tensor"] == 1 else [])
    if free:
        split[max(free, key=lambda d: shape[d])] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*(axis if axis and mesh.shape[axis] > 1 else None for axis in split)))


def _rule_spec(name: str, pattern: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    for size, axis in zip(shape, axes, strict=True):
        if axis and axis not in mesh.shape:
            raise ConfigError(f"sharding rule '{pattern}' names mesh axis '{axis}'; the axes are {', '.join(AXES)}")
        if axis and size % mesh.shape[axis]:
            raise ConfigError(
                f"sharding rule '{pattern}' splits {name} {shape} over {axis} = {mesh.shape[axis]}, which does not "
                "divide it; choose another dimension or mesh"
            )
    return PartitionSpec(*(axis or None for axis in axes))


def to_mesh(tree: Tree, shardings: Tree) -> Tree:
    """Puts host arrays, or arrays of one device, equal on every process, where `shardings` says."""
    return jax.tree.map(place, tree, shardings)


def on_every_device(tree: Tree, mesh: Mesh) -> Tree:
    """Host arrays, or arrays of one device, equal on every process, whole on every device of the mesh."""
    return jax.tree.map(lambda leaf: place(leaf, replicated(mesh)), tree)


def place(leaf: Any, sharding: Sharding) -> jax.Array:
    """One array, equal on every process, where `sharding` says."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(place(jax.random.key_data(leaf), sharding))
    # Each process fills its own devices; device_put would compare all values between the processes first.
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def global_batch(local: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The global batch from this process's rows."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in local.items()}
