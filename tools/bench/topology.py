"""The training step of every system, compiled for TPUs that are not here: memory, traffic, exchange, roofline.

    python tools/bench/topology.py --topology v5e:4x4 mae simmim
    python tools/bench/topology.py --topology v5e:2x2 --per-chip 64 --fit --json > v5e.json
    python tools/bench/topology.py --topology v5e:2x2 --config configs/mae/imagenet1k.py:variant=S/16 --formula

Needs libtpu (`pip install 'mim_jax[tpu]'`) and no TPU. Systems are those of the registry, with the default of their
ImageNet config; each compiles for some minutes. Prints a table, or one JSON object. --formula adds what
`mim-jax plan` expects without the compiler.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported: it shall not look for the TPUs

from mim_jax import config as configs
from mim_jax import pretrain
from mim_jax.errors import MimError
from mim_jax.methods.registry import METHODS
from mim_jax.training import compile_ahead, roofline
from mim_jax.training.resolve import versions
from mim_jax.training.traced import cost

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
COLUMNS = (
    "system", "memory GB", "arguments", "temporaries", "TFLOPs", "XLA TFLOPs", "HBM GB", "XLA GB", "copies GB",
    "exchange MB", "roofline", "largest/chip", "compiled in",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", help=f"of {', '.join(METHODS)} (default: all)")
    parser.add_argument("--config", action="append", default=[], metavar="SPEC", help="a config instead of a system")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of every config")
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--per-chip", type=int, default=64, help="images per chip (default: 64)")
    parser.add_argument("--fit", action="store_true", help="search the largest batch per chip")
    parser.add_argument("--formula", action="store_true", help="compare with the formula")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    specs = {spec: spec for spec in args.config}
    for name in args.systems or ([] if specs else METHODS):
        specs[name] = str(CONFIGS / name / "imagenet1k.py")
    try:
        topology = compile_ahead.tpu_topology(args.topology)
        rows = []
        for name, spec in specs.items():
            rows.append(one(name, spec, topology, args))
            print(" ".join(str(cell) for cell in cells(rows[-1])), file=sys.stderr, flush=True)
    except MimError as error:
        print(f"topology: {error}", file=sys.stderr)
        return 2
    if args.json:
        found = {"benchmark": "topology", "topology": args.topology, "per_chip": args.per_chip, "rows": rows}
        print(json.dumps(found | {"command": " ".join(sys.argv), "versions": versions()}, indent=1))
    else:
        print(table([list(COLUMNS), *map(cells, rows)]))
    return 0


def one(name: str, spec: str, topology: compile_ahead.Topology, args: argparse.Namespace) -> dict[str, Any]:
    """Compiles one system; a step that does not fit is a row too."""
    batch = args.per_chip * len(topology.devices)
    config = configs.load(spec, [*args.set, f"training.batch_size={batch}"])
    method = pretrain.check_all(config)
    row: dict[str, Any] = {"system": name, "batch_per_chip": args.per_chip}
    if args.formula:
        traced = cost(config, method)
        row["formula"] = {
            "memory_bytes": traced.memory(args.per_chip, config.training.accumulate),
            "hbm_bytes": traced.step_bytes(args.per_chip, config.training.accumulate),
        }
    start = time.perf_counter()
    try:
        found = compile_ahead.compile_step(config, method, topology.devices)
    except compile_ahead.TooLarge as error:
        return row | {"error": str(error), "needed_bytes": error.bytes}
    row |= {**dataclasses.asdict(found), "compile_seconds": time.perf_counter() - start}
    work = roofline.Work(found.model_flops, found.memory_bytes, found.network_bytes, float(args.per_chip))
    timed = roofline.step(work, topology.chip, len(topology.devices), config.training.precision)
    row |= {"roofline": timed.roofline, "bound": timed.bound}
    if args.fit:
        row["largest_batch_per_chip"], _ = compile_ahead.largest_batch(
            config, method, topology.devices, topology.chip.memory, found
        )
    return row


def cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        needed = row["needed_bytes"]
        return [row["system"], f"too large: {needed / 1e9:.1f}" if needed else "too large", *[""] * (len(COLUMNS) - 2)]
    memory, gb = row["memory"], 1e9
    return [
        row["system"],
        *(f"{memory[part] / gb:.2f}" for part in ("total", "arguments", "temporaries")),
        f"{row['model_flops'] / 1e12:.2f}",
        f"{row['xla_flops'] / 1e12:.2f}",
        f"{row['memory_bytes'] / gb:.1f}" if row["readable"] else "unknown",
        f"{row['xla_bytes'] / gb:.1f}",
        f"{row['copied'] / gb:.1f}",
        ", ".join(f"{kind} {int(n)}x {size / 1e6:.0f}" for kind, (n, size) in row["collectives"].items()) or "none",
        f"{row['roofline']:.2f}",
        str(row.get("largest_batch_per_chip", "")),
        f"{row['compile_seconds']:.0f} s",
    ]


def table(rows: list[list[str]]) -> str:
    widths = [max(len(row[n]) for row in rows) for n in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
