"""Where XLA for CPUs must keep a value instead of computing it again.

It computes an elementwise value anew inside every fusion that reads it. Along a residual stream that costs time
quadratic in depth: the gradient of block 1 adds up the branches of all blocks once more. And it takes barriers out
before it fuses, unless the program is compiled with `CPU_OPTIONS`. Compilers for GPUs and TPUs weigh this well
themselves, and a barrier would only keep them from fusing.
"""

from __future__ import annotations

from typing import Any

import jax

# For `jax.jit(..., compiler_options=...)` of programs for CPUs: leave barriers where they are.
CPU_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def written_down(x: Any) -> Any:
    """`x`, any tree of arrays, computed once and kept in programs for CPUs; elsewhere the identity."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def materialized(x: Any) -> Any:
    """`x`; where a gradient is taken through it, `x` and its gradient are `written_down`.

    A program without gradients, such as one for export, contains nothing of it.
    """
    return x


materialized.defvjp(lambda x: (written_down(x), None), lambda _, gradient: (written_down(gradient),))
