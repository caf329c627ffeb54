"""mim-jax quickstart"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

from mim_jax.commands.base import Command
from mim_jax.errors import DataError

CONFIG = "configs/mae/digits.py"


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where its folder is made (default: runs)")


def run(args: argparse.Namespace) -> int:
    """Calls the library and nothing else: every step is also a command, and those are printed at the end."""
    from mim_jax import config
    from mim_jax.evaluation.run import evaluate
    from mim_jax.pretrain import pretrain
    from mim_jax.report.page import write_page
    from mim_jax.report.show import show_run

    began = time.monotonic()
    loaded = config.load(CONFIG, args.overrides)
    workdir = next_workdir(Path(args.runs))
    print(f"1 of 3: pretraining a small MAE on handwritten digits in {workdir}", flush=True)
    if not pretrain(loaded, workdir):
        given = "".join(f" --config.{override}" for override in args.overrides)
        print(f"stopped; `mim-jax train --config {CONFIG}{given} --workdir {workdir}` continues it")
        return 1
    print("\n2 of 3: what the encoder is worth, beside an untrained one and raw pixels", flush=True)
    evaluate(workdir, ("knn", "linear"))
    print("\n3 of 3: pictures and the page of the run", flush=True)
    grid = show_run(workdir)
    page = write_page(workdir)
    print(
        f"\nDone in {time.monotonic() - began:.0f} s.\n"
        f"  reconstructions  {grid}\n"
        f"  page of the run  {page}   (open it in a browser)\n"
        f"  results          {workdir / 'eval.json'}\n"
        f"The same by hand:\n"
        f"  mim-jax train --config {CONFIG} --workdir {workdir}-by-hand\n"
        f"  mim-jax eval {workdir}-by-hand --knn --linear\n"
        f"  mim-jax show {workdir}-by-hand"
    )
    return 0


def next_workdir(runs: Path) -> Path:
    """Makes the first quickstart-N that does not exist yet.

    Raises:
        DataError: a folder that cannot be written to.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            workdir = runs / f"quickstart-{number}"
            try:
                workdir.mkdir()
            except FileExistsError:
                continue
            return workdir
    except OSError as error:
        raise DataError(f"no folder can be made in {runs}: {error.strerror}; give another by --runs DIR") from error
    raise AssertionError("unreachable: the numbers do not end")


COMMAND = Command(
    name="quickstart",
    summary="Pretrain a small MAE on embedded digits, judge it and draw what it predicts: minutes on a laptop, nothing "
    "to download.",
    examples=("quickstart", "quickstart --runs /tmp/runs --config.training.epochs=10"),
    declare=declare,
    run=run,
    overrides=True,
)
