"""One of several processes that take training steps together: `steps_worker.py OUT MESH METHOD...`.

Writes losses, what was drawn (masks, crops), extra state, and how much of the state a device holds, from process 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mim_jax import distributed

STEPS = 3


def main() -> None:
    out, mesh, *names = sys.argv[1:]
    distributed.start()
    import jax
    import numpy as np
    from meshed_step import compiled

    from mim_jax.methods.registry import method_class
    from mim_jax.training import sharding
    from mim_jax.training.groups import flat

    sharding.SMALL = 8
    found: dict[str, np.ndarray] = {"processes": np.asarray(jax.process_count())}
    for name in names:
        state, _, batch, step, draw = compiled(method_class(name).tiny(), **json.loads(mesh))
        for number in range(STEPS):
            drawn = draw(state, batch)
            found |= {f"{name}/drawn/{number}/{path}": np.asarray(x) for path, x in flat(drawn).items()}
            state, scalars = step(state, batch)
            found[f"{name}/loss/{number}"] = np.asarray(scalars["loss"])
        held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
        found[f"{name}/held"] = np.asarray(held / sum(x.nbytes for x in jax.tree.leaves(state)))
        whole = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(batch["index"].sharding.mesh))
        found |= {f"{name}/extra/{path}": np.asarray(x) for path, x in flat(whole(state.extra)).items()}
    if jax.process_index() == 0:
        np.savez(Path(out), **found)


if __name__ == "__main__":
    main()
