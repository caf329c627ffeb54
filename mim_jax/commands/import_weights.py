"""mim-jax import"""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command
from mim_jax.commands.conversion import declare_choice, print_proof


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="weight file, folder of a library, or name on a hub")
    parser.add_argument("out", metavar="OUT", help="run directory to write; it must not be there yet")
    parser.add_argument("--from", dest="library", required=True, metavar="LIBRARY", help="hf, timm or original")
    parser.add_argument("--method", required=True, metavar="NAME", help="method of ours that the run shall be of")
    parser.add_argument("--model", default="", metavar="NAME", help="name of the timm model, where no file says it")
    parser.add_argument("--config", default="", metavar="FILE[:ARG]", help="config for what the source does not say")
    declare_choice(parser, "all there is")


def run(args: argparse.Namespace) -> None:
    from mim_jax import config as configs
    from mim_jax.interop.importing import import_run

    done = import_run(
        args.source,
        args.out,
        library=args.library,
        method=args.method,
        part=args.part,
        named=args.named,
        model=args.model,
        config=configs.load(args.config) if args.config else None,
        overrides=args.overrides,
        case=args.case,
        tolerance=args.tolerance,
    )
    print_proof(f"{args.source}: {done.form.name} and {args.method}", done.proof, args.case)
    print(f"wrote {done.out}: {done.parameters:,} parameters taken ({done.form.part} of {done.form.name})")


COMMAND = Command(
    name="import",
    summary="Turn other people's weights into a run that can be evaluated, fine-tuned, shown or trained further, "
    "after comparing both sides on the same images.",
    examples=(
        "import vit-mae-base runs/mae-base --from hf --method mae",
        "import model.safetensors runs/vit --from timm --method mae --model vit_base_patch16_224",
        "import mae_pretrain_vit_base.pth runs/mae --from original --method mae --config configs/mae/imagenet1k.py",
    ),
    declare=declare,
    run=run,
    overrides=True,
)
