"""mim-jax data noise: makes a bank of filtered noise for ColorMAE's masks."""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="where the file goes; a file of the same settings is kept")
    parser.add_argument("--colour", default="green", choices=("red", "blue", "green", "purple"), help="filter")
    parser.add_argument(
        "--sigmas",
        type=float,
        nargs="*",
        default=(),
        metavar="S",
        help="blurs: one, or weak and strong (green, purple)",
    )
    parser.add_argument("--count", type=int, default=3072, help="images (default: 3072)")
    parser.add_argument("--size", type=int, default=64, help="their side (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the white noise (default: 0)")


def run(args: argparse.Namespace) -> None:
    from mim_jax.interop.noise_bank import make
    from mim_jax.masking.colour_noise import NoiseConfig

    settings = {key: getattr(args, key) for key in ("colour", "sigmas", "count", "size", "seed")}
    print(make(NoiseConfig.from_section(settings, "--"), args.folder))


NOISE = Command(
    name="data noise",
    summary="Make a bank of filtered noise, out of which ColorMAE cuts its masks (method.noise.source).",
    examples=("data noise runs/noise", "data noise runs/noise --colour blue --sigmas 1.5 --count 1024 --size 32"),
    declare=declare,
    run=run,
)
