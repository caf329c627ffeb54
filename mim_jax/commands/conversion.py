"""What import and export print: the comparison of both sides."""

from __future__ import annotations

from mim_jax.interop.proof import Proof
from mim_jax.interop.table import print_rows
from mim_jax.interop.verify import default_console


def print_proof(title: str, proof: Proof, case: str) -> None:
    """A line per array, or why nothing was compared and what would."""
    if proof.rows:
        print_rows(default_console(), title, proof.rows, (), details=False)
    elif case:
        print(f"not run side by side ({proof.reason}); the reference case {case} passes")
    else:
        print(f"not run side by side: {proof.reason}; with --case CASE_DIR a reference case must pass")
