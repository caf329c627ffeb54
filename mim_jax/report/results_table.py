"""Evaluation results of a run as a table, and the plots that its analysis left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mim_jax.report import embed, html, metrics
from mim_jax.report.run_files import RunFiles
from mim_jax.wording import BASELINES, DASH, metric_title, metric_value

WHO = {"pretrained": "the pretrained encoder", "untrained": "an untrained encoder, for comparison"}


def part(results: Sequence[Mapping[str, Any]]) -> str:
    """All results, newest first: the pretrained encoder's number beside its baselines'."""
    if not results:
        return ""
    others = list(dict.fromkeys(name for entry in results for name in entry.get("baselines") or {}))
    headings = ["protocol", "metric", "pretrained", *(BASELINES.get(name, name) for name in others)]
    headings += ["images", "step", "when (UTC)"]
    rows = [row for entry in newest_first(results) for row in _rows(entry, others)]
    table = html.table(headings, rows, numbers=range(2, 3 + len(others)), first=2, name="evaluation results")
    seeds = "; ± is the standard deviation over seeds" if any(entry.get("spread") for entry in results) else ""
    return table + html.note(f"Shares in %; images: to learn from / held out{seeds}.")


def newest_first(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(results, key=lambda entry: str(entry.get("time", "")), reverse=True)


def latest_first(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the latest checkpoint first, of one checkpoint the newest."""

    def step(entry: Mapping[str, Any]) -> float | int:
        found = (entry.get("checkpoint") or {}).get("step")
        return found if metrics.is_number(found) else -1

    return sorted(newest_first(results), key=step, reverse=True)


def value(entry: Mapping[str, Any], metric: str, who: str = "pretrained") -> str:
    """One number of a result as text, with its spread over seeds where there is one."""
    found = entry.get("metrics") if who == "pretrained" else (entry.get("baselines") or {}).get(who)
    number = (found or {}).get(metric)
    deviation = ((entry.get("spread") or {}).get(who) or {}).get(metric)
    if not metrics.is_number(number):
        return DASH
    unit = str((entry.get("units") or {}).get(metric, ""))
    return metric_value(number, unit, deviation if metrics.is_number(deviation) else None)


def protocol(entry: Mapping[str, Any]) -> str:
    """Its name with the feature that it reads."""
    return f"{entry.get('protocol', '')} ({entry.get('feature', '')})"


def _rows(entry: Mapping[str, Any], others: Sequence[str]) -> list[list[Any]]:
    counts, checkpoint = entry.get("counts") or {}, entry.get("checkpoint") or {}
    tail = [
        f"{counts.get('train', DASH)} / {counts.get('eval', counts.get('images', DASH))}",
        checkpoint.get("step", DASH),
        str(entry.get("time", "")).replace("T", " ").removesuffix("+00:00"),
    ]
    return [
        [
            protocol(entry),
            metric_title(metric),
            value(entry, metric),
            *(value(entry, metric, name) for name in others),
            *tail,
        ]
        for metric in entry.get("metrics") or {}
    ]


def analysis(run: RunFiles) -> str:
    """The plots of the newest `mim-jax eval --analysis`, by encoder."""
    folders = {path.parent for path in run.glob("eval/analysis/*/*.png")}
    parts = []
    for who, words in WHO.items():
        mine = sorted(
            (f for f in folders if f.name.startswith(f"{who}-")), key=lambda f: (f.stat().st_mtime_ns, f.name)
        )
        if not mine:
            continue
        figures = []
        for path in run.glob(f"eval/analysis/{mine[-1].name}/*.png"):
            if source := embed.picture(path, exact=True):
                title = path.stem.replace("_", " ")
                wide = embed.is_wide(path)
                figures.append(html.figure(source, f"{title} of {words}", title, paper=True, wide=wide))
        content = html.row(figures)
        parts.append(html.heading(words, content) if who == "pretrained" else html.details(words, content))
    return "\n".join(part for part in parts if part)
