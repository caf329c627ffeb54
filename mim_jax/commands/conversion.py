"""What import and export share: how a part is chosen and checked, and the comparison of both sides in print."""

from __future__ import annotations

import argparse
from typing import Any


def declare_choice(parser: argparse.ArgumentParser, default: str) -> None:
    """What is converted, and how it is checked. default: the part that is taken where none is named."""
    parser.add_argument("--part", default="", metavar="PART", help=f"encoder, classifier or all (default: {default})")
    parser.add_argument("--as", dest="named", default="", metavar="FORMAT", help="foreign format, where several fit")
    parser.add_argument("--case", default="", metavar="CASE_DIR", help="reference case that must pass too")
    parser.add_argument("--tolerance", type=float, default=2e-5, metavar="X", help="largest difference (default: 2e-5)")


def print_proof(title: str, proof: Any, case: str) -> None:
    """A line per array of an `interop.proof.Proof`, or why nothing was compared and what would."""
    from mim_jax.interop.table import print_rows
    from mim_jax.interop.verify import default_console

    if proof.rows:
        print_rows(default_console(), title, proof.rows, (), details=False)
    elif case:
        print(f"not run side by side ({proof.reason}); the reference case {case} passes")
    else:
        print(f"not run side by side: {proof.reason}; with --case CASE_DIR a reference case must pass")
