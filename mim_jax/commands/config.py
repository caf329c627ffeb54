"""mim-jax config list | show | check | diff"""

from __future__ import annotations

import argparse
from typing import Any

from mim_jax.commands.base import Command, positive

SPEC = "config file (configs/mae/cifar10.py, or mae/cifar10), FILE:argument=value,..., run directory or config.json"


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help=SPEC)


def declare_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", nargs="?", default="", metavar="METHOD", help="those of one method alone")


def declare_show(parser: argparse.ArgumentParser) -> None:
    declare(parser)
    parser.add_argument("--resolved", action="store_true", help="and what it comes to: learning rate, steps, "
                        "parameters, FLOPs; of a run, what it began with")  # fmt: skip
    parser.add_argument("--images", type=positive, metavar="N", help="with --resolved: training images, where the "
                        "source is not here")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def declare_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help=SPEC)
    parser.add_argument("new", metavar="NEW", help=SPEC)


def run_list(args: argparse.Namespace) -> None:
    from mim_jax import shipped
    from mim_jax.errors import ConfigError, nearest

    names = shipped.config_names()
    found = [name for name in names if args.method in ("", name.split("/")[1])]
    if not found:
        raise ConfigError(f"no config of '{args.method}'{nearest(args.method, {n.split('/')[1] for n in names})}")
    print("\n".join(found))


def run_show(args: argparse.Namespace) -> None:
    import json

    from mim_jax import config

    loaded = config.load(args.spec, args.overrides)
    found = _resolved(args, loaded) if args.resolved else {}
    if args.json:
        values = loaded.to_dict()
        print(json.dumps({"config": values, "resolved": found} if args.resolved else values, indent=2))
        return
    print(config.to_text(loaded))
    for name, facts in found.items():
        from mim_jax.training.resolve import print_facts

        print(f"\n{name}:")
        print_facts(facts)


def _resolved(args: argparse.Namespace, loaded: Any) -> dict[str, Any]:
    """What the config, or each stage of a pipeline, comes to."""
    from mim_jax import pretrain, stages
    from mim_jax.commands import resolved

    if not args.overrides and (written := resolved.of_run(args.spec)):
        return {"the run began with": written}
    parts = stages.stages(loaded, ".") if stages.is_pipeline(loaded) else {"it comes to": loaded}
    return {name: resolved.of_config(c, pretrain.check_all(c), args.images) for name, c in parts.items()}


def run_check(args: argparse.Namespace) -> None:
    from mim_jax import config, stages

    stages.check(config.load(args.spec, args.overrides))
    print(f"{args.spec}: every key and value is valid")


def run_diff(args: argparse.Namespace) -> int:
    from mim_jax import config

    lines = config.diff(config.load(args.old), config.load(args.new))
    print("\n".join(lines) if lines else "the two configs are equal")
    return 1 if lines else 0


LIST = Command(
    name="config list",
    summary="Print the names of the configs that come with mim_jax.",
    examples=("config list", "config list mae"),
    declare=declare_list,
    run=run_list,
)
SHOW = Command(
    name="config show",
    summary="Print every value of a config, one key a line, and with --resolved what they come to.",
    examples=(
        "config show configs/mae/digits.py",
        "config show mae/cifar10 --resolved",
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
