"""metrics.jsonl of a run as curves."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

Series = dict[str, list[tuple[int, float]]]


def read(run_dir: str | os.PathLike[str]) -> Series:
    """For every metric its (step, value) pairs in order of the step; empty where nothing was logged yet.

    Lines that are no JSON object (the last one of a killed run) and values that are not finite are left out; of two
    lines for one step the later counts.
    """
    path = Path(run_dir) / "metrics.jsonl"
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        entry = _entry(line)
        for name, value in entry.items():
            if name != "step" and _number(value) and _number(entry.get("step")):
                points[name][int(entry["step"])] = float(value)
    return {name: sorted(values.items()) for name, values in points.items()}


def last(series: Series, name: str) -> float | None:
    """The newest value of a metric, or None."""
    return series[name][-1][1] if series.get(name) else None


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
