"""metrics.jsonl of a run as curves."""

from __future__ import annotations

import bisect
import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

Number = float | int
Point = tuple[Number, Number]
Series = dict[str, list[tuple[int, float]]]
MOST = 1200  # points of a curve that are drawn


def read(run_dir: str | os.PathLike[str]) -> Series:
    """For every metric its (step, value) pairs in order of the step; empty where nothing was logged yet.

    Lines that are no JSON object (the last one of a killed run) and values that are not finite are left out; of two
    lines for one step the later counts.
    """
    return parse(Path(run_dir) / "metrics.jsonl")


def parse(path: Path) -> Series:
    """As `read`, of the file itself."""
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        entry = _entry(line)
        for name, value in entry.items():
            if name != "step" and is_number(value) and is_number(entry.get("step")):
                points[name][int(entry["step"])] = float(value)
    return {name: sorted(values.items()) for name, values in points.items()}


def last(series: Series, name: str) -> float | None:
    """The newest value of a metric, or None."""
    return series[name][-1][1] if series.get(name) else None


def newest_step(series: Series) -> int | None:
    """The last step of which anything was logged, or None."""
    return max((points[-1][0] for points in series.values() if points), default=None)


def thin(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most `most` of many points: the lowest and the highest of each stretch, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    stretches = max(1, (most - 2) // 2)
    edges = [round(i * len(points) / stretches) for i in range(stretches + 1)]
    kept = {0, len(points) - 1}
    for begin, end in zip(edges, edges[1:], strict=False):
        stretch = range(begin, end)
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def epoch_of(series: Series, step: Number) -> Number:
    """The epoch in which a step stands, between the steps that were logged; without any, the step itself."""
    known = series.get("epoch", [])
    if not known:
        return step
    right = min(bisect.bisect_left(known, (step, -math.inf)), len(known) - 1)
    left = max(right - 1, 0)
    (s0, e0), (s1, e1) = known[left], known[right]
    if s0 == s1:  # a single line: steps are shares of its epochs
        return step * e1 / s1 if s1 else e1
    return e0 + (step - s0) * (e1 - e0) / (s1 - s0)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
