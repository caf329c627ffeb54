"""mim-jax serve"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder of runs")
    parser.add_argument("--port", type=port, default=6460, metavar="N", help="default: 6460; 0: any free one")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: "
                        "127.0.0.1, this machine alone)")  # fmt: skip


def port(text: str) -> int:
    """A port number."""
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port: give a number from 0 to 65535")
    return int(text)


def run(args: argparse.Namespace) -> None:
    from mim_jax.report.serve import serve

    serve(args.folder, args.host, args.port)


COMMAND = Command(
    name="serve",
    summary="Show a folder of runs in the browser, live, to this machine alone.",
    examples=(
        "serve runs",
        "serve runs --port 8000",
    ),
    declare=declare,
    run=run,
)
