"""mim-jax train"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="SPEC", help="config file, or FILE:argument=value,...")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="run directory; an existing one is resumed")


def run(args: argparse.Namespace) -> None:
    from mim_jax import config, distributed

    distributed.start()  # before anything looks at the devices
    from mim_jax import stages

    stages.train(config.load(args.config, args.overrides), args.workdir)


COMMAND = Command(
    name="train",
    summary="Pretrain a method on images. In an existing run directory it goes on where the run stopped.",
    examples=(
        "train --config configs/mae/digits.py --workdir runs/digits",
        "train --config configs/mae/cifar10.py:epochs=100 --config.optimizer.lr=1e-3 --workdir runs/cifar",
    ),
    declare=declare,
    run=run,
    overrides=True,
)
