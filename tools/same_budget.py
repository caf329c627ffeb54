"""Every system at one small budget on CIFAR-10: pretrain, then judge, beside the untrained encoder and raw pixels.

    python tools/same_budget.py --data CIFAR10 --out runs/same_budget            all systems, two at a time
    python tools/same_budget.py --data CIFAR10 --out runs/same_budget --only mae ijepa --images 32000
    python tools/same_budget.py --data CIFAR10 --out runs/same_flops --flops 1e14     one budget of arithmetic instead
    python tools/same_budget.py --data CIFAR10 --out runs/same_budget --seeds 3 --protocols knn attentive finetune
    python tools/same_budget.py --out runs/same_budget --table                   the table of what is there
    python tools/same_budget.py --out runs/same_budget --add-rows COMMIT         puts them into results/
    python tools/same_budget.py --out runs/same_budget --figure accuracy.svg --with runs/same_flops/results.json

CIFAR10 is a folder with train-*.parquet and test-*.parquet. A run that is there is continued, a result that is there
is not made again. One core a run, so that times compare. The table is Markdown; results.json holds the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:2]]

from budget import collect, figure, jobs, measured, tables  # noqa: E402
from budget.systems import COMMON, SETTINGS, SYSTEMS  # noqa: E402

__all__ = ["COMMON", "SYSTEMS", "main"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 as parquet files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(SYSTEMS))
    parser.add_argument(
        "--images", type=int, default=32_000, help="that a system sees, where it has no number of its own"
    )
    parser.add_argument("--flops", type=float, default=0.0, help="of a system's whole training, in place of --images")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of every system, from seed 0 on")
    parser.add_argument("--protocols", nargs="+", default=["knn", "linear"], choices=list(SETTINGS))
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer's run to use instead of training one")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--figure", type=Path, help="run nothing, and draw accuracy against compute into this file")
    parser.add_argument("--with", dest="others", nargs="*", type=Path, default=[], help="results.json of other budgets")
    parser.add_argument("--add-rows", metavar="COMMIT", help="run nothing, and add rows of --only or all to results/")
    parser.add_argument("--hardware", default="one CPU core, shared with other work", help="what the rows say of it")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    fine = True
    if args.add_rows:
        print("\n".join(row.id for row in measured.add(out, args.add_rows, args.hardware, args.only or [])))
        return 0
    if not (args.table or args.figure):
        if args.data is None:
            parser.error("--data is needed to run anything; --table shows what is there")
        out.mkdir(parents=True, exist_ok=True)
        fine = jobs.run_all(_plan(args, out), args.only or [])
    return report(out, args) if fine else report(out, args) or 1


def _plan(args: argparse.Namespace, out: Path) -> jobs.Plan:
    return jobs.Plan(
        args.data.resolve(), out, args.images, args.flops, args.seeds, tuple(args.protocols),
        args.tokenizer and args.tokenizer.resolve(), args.jobs,
    )  # fmt: skip


def report(out: Path, args: argparse.Namespace) -> int:
    """Writes results.json, prints the table, draws the figure where one is asked for."""
    rows = collect.rows(out)
    if not rows:
        sys.exit(f"{out} holds no run that was judged; give --data CIFAR10 to make some")
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(tables.table(rows))
    if args.figure:
        more = [row for path in args.others for row in json.loads(path.read_text())]
        print(figure.draw([*rows, *more], args.figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
