"""mim-jax verify"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="CASE_DIR", help="reference cases, or folders that hold cases")
    details = "one line for every parameter (default: where only one case is verified)"
    parser.add_argument("--details", action="store_true", default=None, help=details)


def run(args: argparse.Namespace) -> int:
    from mim_jax.interop.verify import verify_paths

    return 0 if verify_paths(args.paths, details=args.details) else 1


COMMAND = Command(
    name="verify",
    summary="Compare a method with reference cases of the original code; exits 0 only if all are within tolerance.",
    examples=(
        "verify CASES/mae/pretrain_norm_pix",
        "verify CASES/mae --details",
    ),
    declare=declare,
    run=run,
)
