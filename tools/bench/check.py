"""Runs the kept benchmarks again and says which ratios moved.

    python tools/bench/check.py                         all of results/bench
    python tools/bench/check.py growth systems --tolerance 0.1

Every results/bench/NAME.json names the command that made it and its ratios. A ratio has moved where it differs by more
than the tolerance, as a share of what was kept. `better` in the file says which way is better: 'higher' (where it says
nothing) or 'lower', or one of them by ratio. Returns 1 if a ratio got worse or is gone, or a command failed, 2 if there
is no such benchmark. Nothing is written: to keep a new result, run its command with stdout sent to its file.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """Why a benchmark could not be compared, in one sentence."""


def kept(path: Path) -> dict[str, Any]:
    """A kept result.

    Raises:
        Failed: it is not one.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failed(f"{path.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Failed(f"{path.name} is not a benchmark's result: it holds no JSON object")
    if missing := [key for key in ("command", "ratios") if not found.get(key)]:
        raise Failed(f"{path.name} has no '{missing[0]}'; write it anew with its benchmark")
    ratios = found["ratios"]
    if not isinstance(ratios, dict) or not all(isinstance(value, int | float) for value in ratios.values()):
        raise Failed(f"{path.name}: 'ratios' must give a number for each name")
    return found


def again(command: str, timeout: float) -> dict[str, Any]:
    """What the command prints now.

    Raises:
        Failed: it could not be run, ended with an error, or printed no JSON object with ratios.
    """
    words = shlex.split(command)
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout or None)
    except subprocess.TimeoutExpired:
        raise Failed(f"`{command}` took longer than {timeout:g} s") from None
    except OSError as error:
        raise Failed(f"`{command}` could not be run: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise Failed(f"`{command}` ended with {done.returncode}: {said[-1]}")
    try:
        found = json.loads(done.stdout)
        ratios = {str(name): float(value) for name, value in found["ratios"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Failed(f"`{command}` printed no JSON object with ratios") from None
    return found | {"ratios": ratios}


def compared(before: dict[str, Any], now: dict[str, Any], tolerance: float) -> tuple[list[str], bool]:
    """(a line for each ratio, whether one got worse)."""
    lines, worse = [], False
    for name, old in before["ratios"].items():
        new = now["ratios"].get(name)
        if new is None:
            lines.append(f"{name}: {old:g} -> gone  WORSE")
            worse = True
            continue
        change = (new - old) / abs(old) if old else math.copysign(math.inf, new) if new else 0.0
        verdict = "same"
        if not abs(change) <= tolerance:  # so that NaN has moved
            lower = _better(before, name) == "lower"
            verdict = "better" if (change < 0 if lower else change > 0) else "WORSE"
        worse |= verdict == "WORSE"
        lines.append(f"{name}: {old:g} -> {new:g} ({change:+.0%})  {verdict}")
    lines += [f"{name}: {now['ratios'][name]:g}  new" for name in now["ratios"] if name not in before["ratios"]]
    machines = [found.get("machine") for found in (before, now)]
    if machines[0] and machines[1] and machines[0] != machines[1]:
        lines.append(f"(kept on another machine: {machines[0]}, now {machines[1]})")
    return lines, worse


def _better(before: dict[str, Any], name: str) -> str:
    better = before.get("better", "higher")
    return better.get(name, "higher") if isinstance(better, dict) else better


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="files of results/bench without .json (default: all)")
    parser.add_argument("--tolerance", type=float, default=0.15, help="(default: %(default)s)")
    parser.add_argument("--results", type=Path, default=ROOT / "results/bench", help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="of each command; 0: none")
    args = parser.parse_args(argv)
    known = {path.stem: path for path in sorted(args.results.glob("*.json"))}
    if unknown := [name for name in args.names if name not in known]:
        there = ", ".join(known) or "nothing"
        print(f"check: there is no {args.results / unknown[0]}.json; there is {there}", file=sys.stderr)
        return 2
    bad = []
    for name in args.names or known:
        try:
            before = kept(known[name])
            print(f"{name}: {before['command']}", flush=True)
            lines, worse = compared(before, again(before["command"], args.timeout), args.tolerance)
        except Failed as error:
            lines, worse = [f"FAILED: {error}"], True
        print("".join(f"  {line}\n" for line in lines), end="", flush=True)
        bad += [name] if worse else []
    count = len(args.names or known)
    print(f"worse or failed: {', '.join(bad)}" if bad else f"nothing got worse ({count} benchmarks)")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
