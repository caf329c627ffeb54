"""mim-jax export"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command, step
from mim_jax.commands.conversion import declare_choice, print_proof


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="run directory")
    parser.add_argument("out", metavar="OUT", help="folder to write; it must not be there yet")
    kinds = "hf, timm, original, safetensors, npz, onnx or saved-jax"
    parser.add_argument("--to", required=True, metavar="KIND", help=kinds)
    parser.add_argument("--step", type=step, metavar="N|best", help="checkpoint to export (default: the latest)")
    declare_choice(parser, "by method")


def run(args: argparse.Namespace) -> None:
    from mim_jax.interop.exporting import export_run

    done = export_run(
        args.run_dir,
        args.out,
        to=args.to,
        part=args.part,
        named=args.named,
        step=args.step,
        case=args.case,
        tolerance=args.tolerance,
    )
    print_proof(f"{args.run_dir} and {done.form}", done.proof, args.case)
    print(f"wrote {done.out}: {', '.join(done.files)} ({done.part} as {done.form})")


COMMAND = Command(
    name="export",
    summary="Write a run's weights as another library's own loader takes them, or as a program, after comparing both "
    "sides on the same images.",
    examples=(
        "export runs/mae exports/mae-hf --to hf",
        "export runs/mae exports/mae-whole --to hf --part all",
        "export runs/mae exports/mae-timm --to timm",
        "export runs/mae exports/mae-onnx --to onnx",
    ),
    declare=declare,
    run=run,
)
