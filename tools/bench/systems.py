"""Training steps of every system at one size: images/s, FLOPs, GFLOP/s, and efficiency relative to MAE's.

    python tools/bench/systems.py
    python tools/bench/systems.py --batch-size 64 --rounds 7 mae beit ibot

Each system's CIFAR-10 config (Ti/4 at 32 pixels; SparK: ResNet-18; the tokenizer is its own network), on noise, with
random teachers and tokenizers, which cost what trained ones cost. All are compiled first, then take turns; medians
count. Efficiency is GFLOP/s over MAE's, with FLOPs by `Method.flops()`; a system is flagged where its step takes more
than 1.5 times as long as its FLOPs would at MAE's rate. Table on stderr, JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

REFERENCE, FLAGGED = "mae", 1.5
COLUMNS = ("system", "steps/s", "images/s", "MFLOPs/image", "GFLOP/s", "efficiency", "")


def compared(seconds: dict[str, float], flops: dict[str, float], batch: int) -> list[dict[str, Any]]:
    """A row a system, the fastest first. seconds: per step; flops: per image."""
    rate = {name: flops[name] * batch / seconds[name] for name in seconds}
    rows = [
        {
            "system": name,
            "steps_per_second": round(1 / seconds[name], 3),
            "images_per_second": round(batch / seconds[name], 1),
            "mflops_per_image": round(flops[name] / 1e6, 1),
            "gflops_per_second": round(rate[name] / 1e9, 1),
            "efficiency": round(rate[name] / rate[REFERENCE], 3),
            "slower_than_its_flops": rate[REFERENCE] / rate[name] > FLAGGED,
        }
        for name in seconds
    ]
    return sorted(rows, key=lambda row: -row["images_per_second"])


def table(rows: list[dict[str, Any]]) -> str:
    cells = [[*(str(value) for value in list(row.values())[:-1]), _flag(row)] for row in rows]
    lines = [list(COLUMNS), *cells]
    widths = [max(len(line[n]) for line in lines) for n in range(len(COLUMNS))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _flag(row: dict[str, Any]) -> str:
    slow = row["slower_than_its_flops"]
    return f"{1 / max(row['efficiency'], 1e-9):.1f} times what its FLOPs explain" if slow else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", help="of the registry (default: all)")
    parser.add_argument("--batch-size", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of every config")
    args = parser.parse_args()

    from bare_step import ROOT, BareStep, facts, load

    from mim_jax.errors import MimError
    from mim_jax.methods.registry import METHODS, method_class

    steps: dict[str, BareStep] = {}
    flops: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name in dict.fromkeys([REFERENCE, *(args.systems or METHODS)]):
        try:
            method_class(name)
            config, method = load(
                f"{ROOT}/configs/{name}/cifar10.py", [f"training.batch_size={args.batch_size}", *args.set]
            )
            steps[name], flops[name] = BareStep(config, method), method.flops()
            print(f"{name}: compiled in {steps[name].compiled_in:.1f} s", file=sys.stderr, flush=True)
        except MimError as error:
            failed[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    if REFERENCE not in steps:
        print("systems: nothing can be compared without MAE", file=sys.stderr)
        return 2
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            taken[name].append(step())
    rows = compared({name: statistics.median(found) for name, found in taken.items()}, flops, args.batch_size)
    print(table(rows), file=sys.stderr)
    ratios = {f"{row['system']} / {REFERENCE}": row["efficiency"] for row in rows if row["system"] != REFERENCE}
    print(json.dumps({
        "benchmark": "systems", "ratios": ratios, "better": "higher", "batch_size": args.batch_size,
        "rounds": args.rounds, "systems": rows, "failed": failed, **facts(),
    }, indent=1))  # fmt: skip
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
