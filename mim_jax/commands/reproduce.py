"""mim-jax reproduce"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command
from mim_jax.commands.plan import positive


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("row", metavar="ROW", help="id of a published row, or a part of it that is its own (`results`)")
    parser.add_argument("--dry-run", action="store_true", help="show the commands, and what training would take")
    parser.add_argument("--scale", default="", choices=("", "cifar10"), help="the same recipe at a small scale; its "
                        "number stands for itself")  # fmt: skip
    parser.add_argument(
        "--workdir", default="", metavar="DIR", help="where the runs are (default: below runs/reproduce)"
    )
    parser.add_argument("--source", default="", metavar="SPEC", help="training images (default: the config's)")
    parser.add_argument("--eval-source", default="", metavar="SPEC", help="test images (default: the config's)")
    parser.add_argument("--argument", action="append", default=[], metavar="NAME=VALUE", help="of the row's config "
                        "file, such as tokenizer=RUN or teacher=RUN; may be repeated")  # fmt: skip
    parser.add_argument("--epochs", type=float, default=0.0, metavar="N", help="with --scale: epochs of pretraining")
    parser.add_argument("--seeds", type=positive, default=1, metavar="N", help="pretrainings, for mean and spread")
    parser.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=None, help="the same evaluation "
                        "of an untrained encoder and raw pixels (default: with --scale)")  # fmt: skip
    parser.add_argument("--out", default="", metavar="FILE", help="file that our row is added to (default: the "
                        "system's file of the checkout)")  # fmt: skip
    parser.add_argument("--device", action="append", default=[], metavar="NAME", help="with --dry-run: as of plan")
    parser.add_argument("--chips", type=positive, metavar="N", help="with --dry-run: of each device (default: 8)")


def run(args: argparse.Namespace) -> int:
    from mim_jax.reproduce import perform, process
    from mim_jax.reproduce.recipe import Options, recipe
    from mim_jax.results import files

    names = ("scale", "workdir", "source", "eval_source", "epochs", "seeds", "baselines")
    options = Options(
        **{name: getattr(args, name) for name in names}, arguments=tuple(args.argument), overrides=args.overrides
    )
    made = recipe(files.find(args.row, files.load()), options)
    for line in made.dropped:
        print(f"not carried over to the small scale: {line}")
    if args.dry_run:
        return dry_run(made, args)
    path = perform.target(made, args.out)
    try:
        mine = perform.perform(made, path, say=lambda line: print(line, flush=True))
    except process.Stopped as stopped:
        print(f"stopped by {stopped}; the same command goes on there", flush=True)
        return 1
    sentence, fine = perform.verdict(made, mine)
    print(sentence)
    return 0 if fine else 1


def dry_run(made, args: argparse.Namespace) -> int:
    """Prints the steps and what they would take; touches nothing."""
    from mim_jax.reproduce.forecast import lines
    from mim_jax.results.compare import tolerance

    row = made.row
    print(f"{row.id}\n{row.paper}; {row.metric} {row.value:g} ({row.certainty}), tolerance {tolerance(row):g}\n")
    for step in made.steps:
        print(f"# {step.name}\n{step.command}")
    print()
    for line in lines(made, args.device, args.chips):
        print(line)
    return 0


COMMAND = Command(
    name="reproduce",
    summary="Run a published row: pretrain, evaluate, compare, add our row to the results. Goes on where it stopped.",
    examples=(
        "reproduce mae/vit_b16/imagenet1k/1600ep/finetune --dry-run",
        "reproduce mae/vit_b16/imagenet1k/1600ep/linear --source folder:train --eval-source folder:val",
        "reproduce mae/vit_b16/imagenet1k/1600ep/linear --scale cifar10 --epochs 20",
    ),
    declare=declare,
    run=run,
    overrides=True,
)
