"""mim-jax data stats | show | bench: looks at data."""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command


def declare_stats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="data source, such as folder:DIR, parquet:GLOB or tfds:NAME")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="read at most N images (default: all)")
    parser.add_argument(
        "--channels", type=int, default=0, metavar="C", help="1, 3 or 4 (default: what the images have)"
    )


def declare_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="SPEC", help="config file, or FILE:argument=value,...")
    parser.add_argument("--out", default="samples.png", metavar="FILE", help="picture to write (default: samples.png)")
    parser.add_argument("--count", type=int, default=8, help="images, one a row (default: 8)")
    parser.add_argument("--draws", type=int, default=7, help="augmented draws of each image (default: 7)")


def declare_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="SPEC", help="config file, or FILE:argument=value,...")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="how long to measure (default: 10)")


def run_stats(args: argparse.Namespace) -> None:
    from mim_jax.data import tools

    tools.stats(args.source, limit=args.limit, channels=args.channels)


def run_show(args: argparse.Namespace) -> None:
    from mim_jax import config
    from mim_jax.data import tools

    tools.show(config.load(args.config, args.overrides), args.out, count=args.count, draws=args.draws)


def run_bench(args: argparse.Namespace) -> None:
    from mim_jax import config
    from mim_jax.data import tools

    tools.bench(config.load(args.config, args.overrides), seconds=args.seconds)


STATS = Command(
    name="data stats",
    summary="Measure the mean and standard deviation of a data source's channels, for config.data.mean and .std.",
    examples=("data stats digits", "data stats folder:/data/photos --limit 2000"),
    declare=declare_stats,
    run=run_stats,
)
SHOW = Command(
    name="data show",
    summary="Write a grid of augmented samples, as training sees them.",
    examples=(
        "data show --config configs/mae/digits.py",
        "data show --config configs/mae/cifar10.py --config.data.views.image.scale=0.5,1.0 --out crops.png",
    ),
    declare=declare_show,
    run=run_show,
    overrides=True,
)
BENCH = Command(
    name="data bench",
    summary="Measure the images per second of the data pipeline, without a model.",
    examples=(
        "data bench --config configs/mae/digits.py",
        "data bench --config configs/mae/imagenet1k.py --config.data.workers=8 --seconds 60",
    ),
    declare=declare_bench,
    run=run_bench,
    overrides=True,
)
