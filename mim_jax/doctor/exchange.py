"""What the doctor runs in a process of its own on every host: devices, a matrix product, a sum over all devices."""

from __future__ import annotations

import json
import time


def probe(timeout: float, repeats: int = 5) -> None:
    """Joins the others, if there are any, and prints one JSON line about the devices and a sum over all of them."""
    from mim_jax import distributed

    distributed.start(int(timeout))
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    devices, local = jax.devices(), jax.local_devices()
    mesh = Mesh(np.asarray(devices), ("all",))
    size = 2**20 if local[0].platform == "cpu" else 2**24  # values of each device: 4 MB, 64 MB
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("all",), ()))
    mine = np.asarray([[1.0 + devices.index(device)] for device in local], np.float32)
    values = jax.make_array_from_process_local_data(split, np.broadcast_to(mine, (len(local), size)))
    add = jax.jit(lambda x: jnp.sum(x, 0), out_shardings=whole)
    result = np.asarray(add(values).addressable_data(0))
    start = time.perf_counter()
    for _ in range(repeats):
        total = add(values)
    total.block_until_ready()
    seconds = (time.perf_counter() - start) / repeats
    answer = {
        "count": len(local),
        "devices": len(devices),
        "kind": local[0].device_kind,
        "platform": local[0].platform,
        "memory": (local[0].memory_stats() or {}).get("bytes_limit", 0),
        "right": bool((result == len(devices) * (len(devices) + 1) / 2).all()),
        "bytes": 4 * size,
        "seconds": seconds,
    }
    print(json.dumps(answer), flush=True)
