"""mim-jax eval"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command, UsageError, step
from mim_jax.evaluation.registry import PROTOCOLS
from mim_jax.evaluation.suites import SUITES


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="run directory")
    for name, entry in PROTOCOLS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=entry.words.replace("%", "%%"))
    words = "; ".join(f"{name}: {found.words}" for name, found in SUITES.items())
    parser.add_argument("--suite", default="", metavar="NAME", help=f"a named set of protocols: {words}")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds a protocol, for mean and spread")
    parser.add_argument("--step", type=step, metavar="N|best", help="checkpoint to judge (default: the latest)")
    parser.add_argument("--source", default="", metavar="SPEC", help="training images (default: the run's own)")
    parser.add_argument("--eval-source", default="", metavar="SPEC", help="test images (default: the run's own)")
    parser.add_argument("--no-baselines", action="store_true", help="leave out the untrained encoder and raw pixels")


def run(args: argparse.Namespace) -> None:
    protocols = tuple(name for name in PROTOCOLS if getattr(args, name))
    if not (protocols or args.suite):
        raise UsageError("mim-jax eval needs a protocol, such as --knn, or a --suite; see mim-jax eval --help")
    from mim_jax import distributed

    distributed.start()  # before anything looks at the devices
    from mim_jax.evaluation.run import evaluate
    from mim_jax.report.refresh import refresh_page
    from mim_jax.training import bucket

    with bucket.opened(args.run_dir) as folder:
        evaluate(
            folder,
            protocols,
            suite=args.suite,
            seeds=args.seeds,
            step=args.step,
            source=args.source,
            eval_source=args.eval_source,
            baselines=not args.no_baselines,
            overrides=args.overrides,
        )
        refresh_page(folder)


COMMAND = Command(
    name="eval",
    summary="Measure what a run's encoder is worth, beside an untrained encoder and raw pixels; adds to eval.json.",
    examples=(
        "eval runs/digits --knn --linear",
        "eval runs/cifar --linear --step best --config.evaluation.linear.epochs=30",
    ),
    declare=declare,
    run=run,
    overrides=True,
)
