"""mim-jax doctor"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", default="runs", metavar="DIR", help="where runs are to be written (default: runs)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds a device or another host may take to answer"
    )
    parser.add_argument("--expect-devices", type=int, default=0, metavar="N", help="how many devices all hosts have")
    parser.add_argument("--expect-hosts", type=int, default=0, metavar="H", help="how many hosts (processes) there are")
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--data", default="", metavar="SOURCE", help="a data source of which every host reads some records"
    )
    data.add_argument("--config", default="", metavar="SPEC", help="a config file, for its data source")


def run(args: argparse.Namespace) -> int:
    from mim_jax.doctor import Expected, doctor

    expected = Expected(args.expect_devices, args.expect_hosts)
    well = doctor(args.workdir, timeout=args.timeout, expected=expected, data=args.data or args.config)
    return 0 if well else 1


def declare_nan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="the folder that the run wrote, RUN/nonfinite/step_...")


def run_nan(args: argparse.Namespace) -> None:
    from mim_jax.training.nonfinite import replay

    replay(args.bundle)


COMMAND = Command(
    name="doctor",
    summary="Look the installation and the machine over: versions, devices, memory, disk, speed of decoding. Started "
    "on every host of a run it compares them: who is missing, versions, clocks, workdir, a sum over all devices.",
    examples=(
        "doctor",
        "doctor --workdir /data/runs --data 'wds:/data/train-*.tar'",
        "doctor --expect-hosts 4 --expect-devices 16 --workdir gs://bucket/runs/mae",
    ),
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
