"""mim-jax verify"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mim_jax.commands.base import Command
from mim_jax.errors import VerifyError
from mim_jax.replacing import replacing


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="CASE_DIR", help="reference cases, or folders that hold cases")
    details = "one line for every parameter (default: where only one case is verified)"
    parser.add_argument("--details", action="store_true", default=None, help=details)
    parser.add_argument("--json", metavar="FILE", help="also write what every case came to")


def run(args: argparse.Namespace) -> int:
    from mim_jax.interop.verify import Report, verify_paths

    reports: list[Report] = []
    fine = verify_paths(args.paths, details=args.details, reports=reports)
    if args.json:
        _write(Path(args.json), [report.record() for report in reports])
    return 0 if fine else 1


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(records, indent=1) + "\n")
    except OSError as error:
        raise VerifyError(
            f"{path} cannot be written ({error.strerror}); give --json a file in a folder that is there"
        ) from error


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
