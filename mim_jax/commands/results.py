"""mim-jax results"""

from __future__ import annotations

import argparse
from pathlib import Path

from mim_jax.commands.base import Command

FORMATS = ("terminal", "markdown", "csv")


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("row", nargs="?", default="", metavar="ROW", help="words of a row's id: mae/vit_b16, finetune")
    parser.add_argument("--system", default="", metavar="NAME", help="rows of one system: mae")
    parser.add_argument("--model", default="", metavar="WORDS", help="rows whose model holds these words: vit-b/16")
    parser.add_argument("--data", default="", metavar="WORDS", help="rows pretrained on it: imagenet-1k")
    parser.add_argument("--metric", default="", metavar="WORDS", help="rows of a metric: fine-tune, linear, kNN")
    parser.add_argument("--run", action="store_true", help="only what has been run here")
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="terminal (default), markdown or csv")
    parser.add_argument("--add", action="append", default=[], type=Path, metavar="FILE", help="a file of rows beside "
                        "those that are here, such as reproduce --out wrote; may be repeated")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    from mim_jax.results import compare, files, table

    rows = files.load(others=args.add)
    names = {name: getattr(args, name) for name in ("system", "model", "data", "metric", "row")}
    rows = compare.choose(rows, **names)
    if args.run:
        rows = compare.only_run(rows)
    if args.format == "csv":
        print(table.to_csv(rows), end="")
    elif args.format == "markdown":
        print(table.markdown(rows))
    else:
        table.show(rows)


COMMAND = Command(
    name="results",
    summary="The numbers that papers published with ours beside them; what nobody has run is an empty cell.",
    examples=(
        "results --system mae --metric fine-tune",
        "results mae/vit_b16 --format markdown",
        "results --run",
    ),
    declare=declare,
    run=run,
)
