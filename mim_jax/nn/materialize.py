"""Where XLA for CPUs must keep a value instead of computing it again."""

from __future__ import annotations

from typing import Any

import jax


@jax.custom_vjp
def materialized(x: Any) -> Any:
    """`x`, computed once and written down, and so its gradient; any tree of arrays. On other devices the identity.

    XLA for CPUs computes an elementwise value again inside every fusion that reads it. Along a residual stream that
    costs time quadratic in depth: the gradient of block 1 adds up the branches of all blocks anew. It takes the
    barrier out before it fuses, unless the program is compiled with `CPU_OPTIONS`. Compilers for GPUs and TPUs weigh
    this well themselves, and a barrier would only keep them from fusing.
    """
    return _kept(x)


# For `jax.jit(..., compiler_options=...)` of programs for CPUs: leave barriers where they are.
CPU_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def _kept(x: Any) -> Any:
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


materialized.defvjp(lambda x: (_kept(x), None), lambda _, gradient: (_kept(gradient),))
