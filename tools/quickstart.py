"""`make quickstart`: pretrain a small MAE on the embedded digits, judge it, draw what it predicts, say where it all is.

Calls the library and nothing else: every step is also a command, and those are printed at the end.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

from mim_jax import config as configs
from mim_jax.errors import MimError
from mim_jax.evaluation.run import evaluate
from mim_jax.pretrain import pretrain
from mim_jax.report.page import write_page
from mim_jax.report.show import show_run

ROOT = Path(__file__).resolve().parent.parent


def next_workdir(runs: Path) -> Path:
    """Makes the first quickstart-N that does not exist yet."""
    runs.mkdir(exist_ok=True)
    for number in itertools.count(1):
        workdir = runs / f"quickstart-{number}"
        try:
            workdir.mkdir()
        except FileExistsError:
            continue
        return workdir
    raise AssertionError("unreachable: the numbers do not end")


def main() -> None:
    """Runs the whole, in one new folder under runs/."""
    began = time.monotonic()
    workdir = next_workdir(ROOT / "runs")
    name = workdir.relative_to(ROOT)
    print(f"1 of 3: pretraining a small MAE on handwritten digits in {name}", flush=True)
    if not pretrain(configs.load(str(ROOT / "configs" / "mae" / "digits.py")), workdir):
        sys.exit(f"quickstart: stopped; `mim-jax train --config configs/mae/digits.py --workdir {name}` continues it")
    print("\n2 of 3: what the encoder is worth, beside an untrained one and raw pixels", flush=True)
    evaluate(workdir, ("knn", "linear"))
    print("\n3 of 3: pictures and the page of the run", flush=True)
    grid = show_run(workdir)
    page = write_page(workdir)
    print(
        f"\nDone in {time.monotonic() - began:.0f} s.\n"
        f"  reconstructions  {grid.relative_to(ROOT)}\n"
        f"  page of the run  {page.relative_to(ROOT)}   (open it in a browser)\n"
        f"  results          {name / 'eval.json'}\n"
        f"The same by hand:\n"
        f"  mim-jax train --config configs/mae/digits.py --workdir {name}-by-hand\n"
        f"  mim-jax eval {name}-by-hand --knn --linear\n"
        f"  mim-jax show {name}-by-hand"
    )


if __name__ == "__main__":
    try:
        main()
    except MimError as error:
        sys.exit(f"quickstart: {error}")
