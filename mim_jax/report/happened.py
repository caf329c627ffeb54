"""What happened to a run besides training: resumes, skipped batches and records, steps that were not finite."""

from __future__ import annotations

import collections
import shlex

from mim_jax.report import html, metrics
from mim_jax.report.run_files import RunFiles

MOST, MOST_RECORDS = 200, 50  # lines that the page shows
LOOKS = {
    "resume": "good",
    "disk has space": "good",
    "changed config": "",
    "skipped batch": "warn",
    "rewind": "warn",
    "spike": "warn",
    "disk full": "bad",
    "damaged checkpoint": "bad",
}


def part(run: RunFiles) -> str:
    """The section of the page."""
    parts = [_counts(run), _events(run), _bundles(run), _records(run)]
    return "\n".join(part for part in parts if part)


def marks(run: RunFiles) -> list[metrics.Number]:
    """The steps of the events, for the curves."""
    return sorted({event["step"] for event in run.events if metrics.is_number(event.get("step"))})


def _counts(run: RunFiles) -> str:
    kinds = collections.Counter(str(event.get("kind", "")) for event in run.events)
    counts = [f"{number} x {kind}" for kind, number in kinds.most_common()]
    if run.bad_records:
        counts.append(f"{len(run.bad_records)} records skipped")
    return html.note(", ".join(counts))


def _events(run: RunFiles) -> str:
    rows = []
    for event in reversed(run.events[-MOST:]):
        kind = str(event.get("kind", ""))
        when = str(event.get("time", "")).replace("T", " ").removesuffix("+00:00")
        rows.append([when, event.get("step", ""), html.tag(kind, LOOKS.get(kind, "")), event.get("text", "")])
    left_out = len(run.events) - MOST
    more = html.note(f"{left_out} earlier events are in events.jsonl.") if left_out > 0 else ""
    return html.table(("when (UTC)", "step", "kind", "what"), rows, numbers=(1,), name="events") + more


def _bundles(run: RunFiles) -> str:
    """Steps that were not finite, and how each is looked at again."""
    names = run.below("nonfinite", "step_*")
    lines = [f"mim-jax doctor nan {shlex.quote(str(run.folder / 'nonfinite' / name))}" for name in names]
    return html.heading("steps that were not finite", html.commands(lines))


def _records(run: RunFiles) -> str:
    rows = run.bad_records[-MOST_RECORDS:]
    left_out = len(run.bad_records) - len(rows)
    more = html.note(f"{left_out} more are in bad_records*.txt of the run.") if left_out > 0 else ""
    table = html.table(("record", "why it was skipped"), rows, numbers=(0,), name="skipped records")
    return html.heading(f"records skipped ({len(run.bad_records)})", table + more) if rows else ""
