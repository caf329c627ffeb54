"""mim-jax plan"""

from __future__ import annotations

import argparse
import os

from mim_jax.commands.base import Command, positive


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="SPEC", help="config file, or FILE:argument=value,...")
    parser.add_argument("--topology", default="", metavar="NAME", help="TPUs to compile for, e.g. v5e:16x16, v4:2x2x4")
    parser.add_argument("--device", action="append", default=[], metavar="NAME", help="v4, v5e, v5p, v6e, a100, h100, "
                        "h200 or here; may be repeated (default: all)")  # fmt: skip
    parser.add_argument("--chips", type=positive, metavar="N", help="chips of each device (default: 8)")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="global batch (default: the config's)")
    parser.add_argument("--images", type=positive, metavar="N", help="training images, where the source is not here")
    parser.add_argument("--efficiency", type=share, default=0.5, metavar="E", help="share of the roofline that is "
                        "assumed (default: 0.5)")  # fmt: skip
    parser.add_argument("--images-per-core", type=positive, metavar="N", help="images/s that a host core decodes and "
                        "crops (default: 100 for a crop of 224 pixels)")  # fmt: skip
    parser.add_argument("--fit", action="store_true", help="with --topology: search the largest batch that compiles")
    parser.add_argument("--measure", nargs="?", type=positive, const=3, default=0, metavar="STEPS", help="take a few "
                        "steps here and say how far the formula is off (default: 3)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def share(text: str) -> float:
    """A number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share between 0 and 1")
    return value


def run(args: argparse.Namespace) -> None:
    import json

    if args.topology:  # the TPU compiler works without TPUs, and must not look for some
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from mim_jax import config, pretrain
    from mim_jax.training.forecast import forecast
    from mim_jax.training.forecast_text import page

    batch = (f"training.batch_size={args.batch_size}",) if args.batch_size else ()
    loaded = config.load(args.config, (*args.overrides, *batch))
    found = forecast(
        loaded,
        pretrain.check_all(loaded),
        devices=tuple(args.device),
        chips=args.chips,
        topology=args.topology,
        images=args.images,
        efficiency=args.efficiency,
        images_per_core=args.images_per_core,
        fit=args.fit,
        measure=args.measure,
    )
    print(json.dumps(found, indent=2) if args.json else page(found))


COMMAND = Command(
    name="plan",
    summary="What a run would take: parameters, FLOPs, memory, images/s and hours by device, and what bounds it.",
    examples=(
        "plan --config configs/mae/imagenet1k.py --chips 64 --device v5e --device h100",
        "plan --config configs/mae/imagenet1k.py:variant=S/16 --topology v5e:4x4 --batch-size 2048 --fit",
        "plan --config configs/mae/digits.py --device here --measure",
    ),
    declare=declare,
    run=run,
    overrides=True,
)
