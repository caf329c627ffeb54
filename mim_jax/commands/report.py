"""mim-jax report"""

from __future__ import annotations

import argparse
import contextlib

from mim_jax.commands.base import Command


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory; several are compared")
    parser.add_argument("--out", default="", metavar="FILE", help="page to write (default: index.html in the run, or "
                        "comparison.html here for several)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        folders = [_opened(stack, name) for name in args.runs]
        if len(folders) == 1:
            from mim_jax.report.page import write_page

            path = write_page(folders[0], args.out)
        else:
            from mim_jax.report.compare import FILE, write_comparison

            path = write_comparison(folders, args.out or FILE)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, opens in any browser")


def _opened(stack: contextlib.ExitStack, name: str) -> str:
    """The local folder of a run. Only an address needs what reads buckets, which is slow to start."""
    if "://" not in name:
        return name
    from mim_jax.training import bucket

    return str(stack.enter_context(bucket.opened(name)))


COMMAND = Command(
    name="report",
    summary="Write the page of a run, one HTML file to keep or to send; of several runs, the page that compares them.",
    examples=(
        "report runs/digits",
        "report runs/mae runs/simmim --out mae-and-simmim.html",
    ),
    declare=declare,
    run=run,
)
