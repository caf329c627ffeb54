"""mim-jax export"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command, step


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="run directory")
    parser.add_argument("out", metavar="OUT", help="folder to write; it must not be there yet")
    kinds = "hf, timm, original, safetensors, npz, onnx or saved-jax"
    parser.add_argument("--to", required=True, metavar="KIND", help=kinds)
    parser.add_argument("--part", default="", metavar="PART", help="encoder, classifier or all (default: by method)")
    parser.add_argument("--as", dest="named", default="", metavar="FORMAT", help="foreign format, where several fit")
    parser.add_argument("--step", type=step, metavar="N|best", help="checkpoint to export (default: the latest)")
    parser.add_argument("--case", default="", metavar="CASE_DIR", help="reference case that must pass too")
    parser.add_argument("--tolerance", type=float, default=2e-5, metavar="X", help="largest difference (default: 2e-5)")


def run(args: argparse.Namespace) -> None:
    from mim_jax.commands.conversion import print_proof
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
