"""Every system in every weight format: the largest difference between both sides, and whether what went out came back.

    python tools/weights_matrix.py                      prints the table as Markdown
    python tools/weights_matrix.py --json OUT.json      and writes the cells, beside those that are there
    python tools/weights_matrix.py --only MAE BEiT      some systems

Tiny models with random weights; needs the extra 'interop' for the comparisons.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from mim_jax.interop.matrix import COLUMNS, SUBJECTS, cells

TITLES = {"hf": "transformers", "timm": "timm", "original": "authors"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="", metavar="FILE")
    parser.add_argument("--only", nargs="+", default=list(SUBJECTS), choices=SUBJECTS, metavar="SYSTEM")
    args = parser.parse_args()
    print("| system | " + " | ".join(f"{TITLES.get(to, to)} {part}".strip() for to, part in COLUMNS) + " |")
    print("|" + "---|" * (len(COLUMNS) + 1), flush=True)
    out = Path(args.json) if args.json else None
    found = json.loads(out.read_text(encoding="utf-8")) if out and out.exists() else {}
    for subject in args.only:
        row = dict(cells(subject))
        print(f"| {subject} | " + " | ".join(row[column].text() for column in COLUMNS) + " |", flush=True)
        for (to, part), cell in row.items():
            if cell.failed:
                print(f"\n{subject}, {to} {part}: {cell.failed}\n", flush=True)
        found[subject] = {"/".join(filter(None, column)): dataclasses.asdict(cell) for column, cell in row.items()}
        if out:
            ordered = {name: found[name] for name in SUBJECTS if name in found}
            out.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
