"""What stands in a checkpoint: the items of a state, their shapes, their hash."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mim_jax.errors import CheckpointError
from mim_jax.training.groups import flat

Tree = Any
DataState = Mapping[str, Any] | bytes | None
COUNTERS = "counters"


def state_items(state: Any) -> dict[str, Tree]:
    """{item: tree} of a state dataclass: one item a field, single numbers together in `counters`.

    Orbax refuses trees without arrays, so these are left out.
    """
    fields = [f for f in dataclasses.fields(state) if f.metadata.get("pytree_node", True)]
    values = {f.name: getattr(state, f.name) for f in fields}
    counters = {name: value for name, value in values.items() if jax.tree_util.all_leaves([value])}
    trees = {name: v for name, v in values.items() if name not in counters and jax.tree.leaves(v)}
    return {**trees, COUNTERS: counters} if counters else trees


def with_items(state: Any, found: Mapping[str, Tree]) -> Any:
    """`state` with the fields that `found` holds; inverse of `state_items`."""
    fields = {name: value for name, value in found.items() if name != COUNTERS}
    return dataclasses.replace(state, **fields, **(found.get(COUNTERS) or {}))


def placed(tree: Tree, sharding: jax.sharding.Sharding | None = None) -> Tree:
    """`tree` as shapes that all say where they go: by their own sharding, else `sharding`, else on one local device.

    Without one Orbax would look for the devices of the machine that wrote the checkpoint.
    """
    default = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def place(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or default)

    return jax.tree.map(place, tree)


def compare(wanted: Mapping[str, Tree], stored: Mapping[str, Tree], path: str) -> None:
    """Refuses stored items whose arrays are not those asked for.

    Raises:
        CheckpointError: names the first array that differs, and how.
    """
    mend = "use the config that it was written with, or a new workdir"
    for item, tree in wanted.items():
        if item not in stored:
            raise CheckpointError(f"{path} has no '{item}', which this config asks for; {mend}")
        here, there = flat(tree), flat(stored[item])
        for name in [*here, *there]:
            if name not in here or name not in there:
                side = "is missing there" if name in here else "is there but not in this config"
                raise CheckpointError(f"{path} does not fit: {item}/{name} {side}; {mend}")
            ours, theirs = (f"{np.dtype(a.dtype).name}{tuple(a.shape)}" for a in (here[name], there[name]))
            if ours != theirs:
                raise CheckpointError(f"{path} does not fit: {item}/{name} is {theirs} there, {ours} here; {mend}")


def data_to_json(data_state: DataState) -> dict[str, Any]:
    """A position in the data as JSON; bytes as base64."""
    if isinstance(data_state, bytes):
        return {"base64": base64.b64encode(data_state).decode()}
    return {"json": None if data_state is None else dict(data_state)}


def data_from_json(stored: Mapping[str, Any]) -> DataState:
    """Inverse of `data_to_json`."""
    try:
        return base64.b64decode(stored["base64"]) if "base64" in stored else stored["json"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError("the checkpoint's position in the data is not one that mim_jax has written") from error


def params_hash(params: Tree) -> str:
    """sha256 over path, type, shape and bytes of every leaf, in the order of the paths.

    Does not depend on sharding or on the number of processes; all of them must call it.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(flat(params).items()):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
