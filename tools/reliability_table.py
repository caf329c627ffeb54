"""Renders what `make reliability` measured as the table of docs/reliability.md.

python tools/reliability_table.py results/reliability.json            prints it
python tools/reliability_table.py results/reliability.json --write    puts it into the page
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"
COLUMNS = ("fault", "times tried", "times survived", "what was lost")


def table(rows: list[dict]) -> str:
    """Markdown, one row a fault, in the order in which they were tried."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---:|---:|---|"]
    lines += ["| " + " | ".join(str(row[name]).replace("|", "\\|") for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    args = parser.parse_args()
    made = table(json.loads(args.file.read_text()))
    if not args.write:
        print(made)
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}")


if __name__ == "__main__":
    main()
