"""mim-jax config show | check | diff"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command

SPEC = "config file, FILE:argument=value,..., run directory or config.json"


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help=SPEC)


def declare_show(parser: argparse.ArgumentParser) -> None:
    declare(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def declare_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help=SPEC)
    parser.add_argument("new", metavar="NEW", help=SPEC)


def run_show(args: argparse.Namespace) -> None:
    from mim_jax import config

    loaded = config.load(args.spec, args.overrides)
    print(config.to_json(loaded) if args.json else config.to_text(loaded))


def run_check(args: argparse.Namespace) -> None:
    from mim_jax import config, stages

    stages.check(config.load(args.spec, args.overrides))
    print(f"{args.spec}: every key and value is valid")


def run_diff(args: argparse.Namespace) -> int:
    from mim_jax import config

    lines = config.diff(config.load(args.old), config.load(args.new))
    print("\n".join(lines) if lines else "the two configs are equal")
    return 1 if lines else 0


SHOW = Command(
    name="config show",
    summary="Print every value of a config, one key a line.",
    examples=(
        "config show configs/mae/digits.py",
        "config show configs/mae/imagenet1k.py:variant=L/16 --config.training.epochs=800 --json",
    ),
    declare=declare_show,
    run=run_show,
    overrides=True,
)
CHECK = Command(
    name="config check",
    summary="Check every key and value of a config without running anything.",
    examples=(
        "config check configs/mae/digits.py",
        "config check configs/mae/cifar10.py --config.method.mask_ratio=0.6",
    ),
    declare=declare,
    run=run_check,
    overrides=True,
)
DIFF = Command(
    name="config diff",
    summary="List the values in which two configs differ; exits 0 if none, 1 if some.",
    examples=(
        "config diff configs/mae/cifar10.py configs/mae/cifar10.py:epochs=100",
        "config diff runs/digits runs/digits-2",
    ),
    declare=declare_diff,
    run=run_diff,
)
