"""mim-jax eval"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command, UsageError, step

PROTOCOLS = {
    "knn": "weighted k nearest neighbours",
    "linear": "linear probe",
    "attentive": "attentive probe: one learned query looks at all tokens",
}


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="run directory")
    for name, words in PROTOCOLS.items():
        parser.add_argument(f"--{name}", action="store_true", help=words)
    parser.add_argument("--step", type=step, metavar="N|best", help="checkpoint to judge (default: the latest)")
    parser.add_argument("--source", default="", metavar="SPEC", help="training images (default: the run's own)")
    parser.add_argument("--eval-source", default="", metavar="SPEC", help="test images (default: the run's own)")
    parser.add_argument("--no-baselines", action="store_true", help="leave out the untrained encoder and raw pixels")


def run(args: argparse.Namespace) -> None:
    protocols = tuple(name for name in PROTOCOLS if getattr(args, name))
    if not protocols:
        raise UsageError(f"mim-jax eval needs a protocol: {' or '.join(f'--{name}' for name in PROTOCOLS)}")
    from mim_jax.evaluation.run import evaluate

    evaluate(
        args.run_dir,
        protocols,
        step=args.step,
        source=args.source,
        eval_source=args.eval_source,
        baselines=not args.no_baselines,
        overrides=args.overrides,
    )


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
