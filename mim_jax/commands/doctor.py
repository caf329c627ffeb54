"""mim-jax doctor"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", default="runs", metavar="DIR", help="where runs are to be written (default: runs)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds a device may take to answer")


def run(args: argparse.Namespace) -> int:
    from mim_jax.doctor import doctor

    return 0 if doctor(args.workdir, timeout=args.timeout) else 1


def declare_nan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="the folder that the run wrote, RUN/nonfinite/step_...")


def run_nan(args: argparse.Namespace) -> None:
    from mim_jax.training.nonfinite import replay

    replay(args.bundle)


COMMAND = Command(
    name="doctor",
    summary="Look the installation and the machine over: versions, devices, memory, disk, speed of decoding.",
    examples=("doctor", "doctor --workdir /data/runs"),
    declare=declare,
    run=run,
)
NAN = Command(
    name="doctor nan",
    summary="Replay the step at which a run's loss or gradient stopped being finite, from the bundle it wrote.",
    examples=(
        "doctor nan runs/digits/nonfinite/step_00001234",
        "doctor nan runs/cifar/nonfinite/step_00000042 --debug",
    ),
    declare=declare_nan,
    run=run_nan,
)
