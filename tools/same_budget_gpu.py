"""Every system at one budget on CIFAR-10 on one accelerator: ViT-Ti/4, the images on the device, seeds side by side.

    python tools/same_budget_gpu.py --data CIFAR10 --out runs/budget                    200 epochs, three seeds
    python tools/same_budget_gpu.py --data CIFAR10 --out runs/budget --only mae ijepa --epochs 50
    python tools/same_budget_gpu.py --data CIFAR10 --out runs/flops --flops 2e16        one budget of arithmetic instead
    python tools/same_budget_gpu.py --data CIFAR10 --out runs/try --small --epochs 0.1 --seeds 2 --only mae    on a CPU
    python tools/same_budget.py --out runs/budget --figure accuracy.svg --with runs/flops/results.json

CIFAR10 is a folder with train-*.parquet and test-*.parquet. One process trains a system's seeds in one program and
writes an ordinary run folder for each; what is there is not made again. tools/budget/resident.py says what differs from
`mim-jax train`. The table is Markdown; results.json holds the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from budget import collect, tables  # noqa: E402
from budget.jobs import in_order  # noqa: E402
from budget.systems import SETTINGS, SYSTEMS  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10 as parquet files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], choices=list(SYSTEMS))
    parser.add_argument("--epochs", type=float, default=200.0)
    parser.add_argument("--flops", type=float, default=0.0, help="of a system's whole training, in place of --epochs")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="the sizes of tools/same_budget.py, to try it on a CPU")
    parser.add_argument("--protocols", nargs="*", default=["knn", "linear"], choices=list(SETTINGS))
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no system after so long; 0: no limit")
    args = parser.parse_args(argv)
    from budget.vectorised import Budget, judge, train

    from mim_jax.errors import MimError

    budget = Budget(
        f"parquet:{args.data.resolve()}/train-*.parquet", f"parquet:{args.data.resolve()}/test-*.parquet",
        args.out.resolve(), args.epochs, args.flops, args.batch_size, args.seeds, args.small, tuple(args.protocols),
    )  # fmt: skip
    began, failed, late = time.monotonic(), [], []
    for name in [name for names in in_order(args.only) for name in names]:
        if args.minutes and time.monotonic() - began > 60 * args.minutes:
            late.append(name)
            continue
        try:
            train(name, budget)
            judge(name, budget)
        except MimError as error:  # the other systems do not depend on it, or say so themselves
            print(f"{name}: {error}", flush=True)
            failed.append(name)
    if late:
        print(f"not begun after {args.minutes:g} minutes: {', '.join(late)}; the same command goes on with them")
    rows = collect.rows(budget.out)
    (budget.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(tables.table(rows))
    return 1 if failed or late else 0


if __name__ == "__main__":
    sys.exit(main())
