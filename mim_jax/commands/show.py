"""mim-jax show"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command, step


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="run directory")
    parser.add_argument("--images", nargs="+", default=(), metavar="FILE", help="image files to reconstruct")
    parser.add_argument("--source", default="", metavar="SPEC", help="data source to take images from")
    parser.add_argument("--count", type=int, default=8, help="images taken from the source (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the masks (default: 0)")
    parser.add_argument("--step", type=step, metavar="N|best", help="checkpoint to look at (default: the latest)")
    parser.add_argument("--out", default="", metavar="FILE", help="picture to write (default: inside the run)")


def run(args: argparse.Namespace) -> None:
    from mim_jax.report.refresh import refresh_page
    from mim_jax.report.show import show_run
    from mim_jax.training import bucket

    with bucket.opened(args.run_dir) as folder:
        show_run(
            folder,
            images=tuple(args.images),
            source=args.source,
            count=args.count,
            seed=args.seed,
            out=args.out,
            step=args.step,
        )
        if not args.out:  # the picture is one of the run's
            refresh_page(folder)


COMMAND = Command(
    name="show",
    summary="Draw what a run predicts: input, masked input, prediction, pasted prediction and error.",
    examples=(
        "show runs/digits",
        "show runs/cifar --images cat.png dog.png --out reconstructions.png",
    ),
    declare=declare,
    run=run,
)
