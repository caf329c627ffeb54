"""Which curves a run has, and how several runs lie over each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mim_jax.report import metrics
from mim_jax.report.metrics import Number, Point, Series
from mim_jax.report.plots import Line, Panel
from mim_jax.wording import metric_title

# metric -> (title, factor, logarithmic where the range is wide)
OPTIMIZER = {
    "lr": ("learning rate", 1.0, False),
    "weight_decay": ("weight decay", 1.0, False),
    "grad_norm": ("gradient norm", 1.0, True),
    "skipped": ("batches skipped so far", 1.0, False),
}
MACHINE = {
    "images_per_sec": ("throughput (images/s)", 1.0, False),
    "data_wait": ("waiting for data (% of the time)", 100.0, False),
    "mfu": ("model FLOPs utilisation (%)", 100.0, False),
}
NO_CURVE = {"epoch", "nonfinite"}
SILENT_AT_ZERO = {"skipped", "weight_decay"}
MARKS = 40  # more would hide the curve
HELD_OUT = "val_"


def of_run(
    series: Series, results: Sequence[Mapping[str, Any]], marks: Sequence[Number] = ()
) -> dict[str, list[tuple[Panel, str]]]:
    """Group -> panels of one run, each with a sentence of its newest values.

    marks: steps at which something happened, drawn where the loss is.
    """
    groups = {
        "learning": [*_loss(series, tuple(marks)[:MARKS]), *_terms(series), *_worth(series, results)],
        "optimizer": list(_known(series, OPTIMIZER)),
        "machine": list(_known(series, MACHINE)),
    }
    return {name: panels for name, panels in groups.items() if panels}


def of_runs(runs: Mapping[str, Series]) -> list[Panel]:
    """One panel for every measure that at least one of the runs has, the runs overlaid.

    Runs with other numbers of steps in an epoch are laid over each other by epoch, where all have logged it.
    """
    by_epoch = _by_epoch(list(runs.values()))
    found = []
    for name in _measures(runs.values()):
        title, factor, logarithmic = _title(name)
        lines = []
        for number, (label, series) in enumerate(runs.items()):
            points = [(metrics.epoch_of(series, x) if by_epoch else x, factor * y) for x, y in series.get(name, ())]
            if points:
                lines.append(Line(label, points, number))
        found.append(Panel(title, tuple(lines), "epoch" if by_epoch else "step", (), logarithmic))
    return found


def over_time(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Protocol and metric -> (step, share) of every checkpoint that was judged; the newest result of a step counts."""
    found: dict[str, dict[int, Number]] = {}
    for entry in sorted(results, key=lambda entry: str(entry.get("time", ""))):
        step, values = (entry.get("checkpoint") or {}).get("step"), entry.get("metrics") or {}
        units = entry.get("units") or {}
        share = next((n for n in values if metrics.is_number(values[n]) and not units.get(n)), None)
        if share is not None and metrics.is_number(step):
            name = f"{entry.get('protocol')}, {metric_title(share)}"
            found.setdefault(name, {})[int(step)] = values[share]
    return {name: sorted(points.items()) for name, points in found.items()}


def _loss(series: Series, marks: tuple[Number, ...]) -> Iterator[tuple[Panel, str]]:
    if not (series.get("loss") or series.get("val_loss")):
        return
    same = [name for name in _own(series) if series[name] == series.get("loss")]
    label = "training" + (f" (= {', '.join(map(_words, same))})" if same else "")
    yield _panel(series, "loss", {"loss": label, "val_loss": "held out"}, marks=marks)


def _terms(series: Series) -> Iterator[tuple[Panel, str]]:
    """Everything that the method logs by itself: the terms of its loss and its own measures."""
    for name in _own(series):
        if series[name] != series.get("loss"):
            held_out = HELD_OUT + name
            labels = {name: "training", held_out: "held out"} if series.get(held_out) else {name: ""}
            yield _panel(series, _words(name), labels)


def _worth(series: Series, results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Panel, str]]:
    lines = []
    if series.get("knn"):
        lines.append(Line("kNN while training", _scaled(series["knn"], 100.0)))
    for number, (name, points) in enumerate(over_time(results).items(), 1):
        lines.append(Line(name, _scaled(points, 100.0), number, points_only=len(points) == 1))
    if lines:
        yield Panel("what the encoder is worth (%)", tuple(lines)), _newest(lines)


def _known(series: Series, wanted: Mapping[str, tuple[str, float, bool]]) -> Iterator[tuple[Panel, str]]:
    for name, (title, factor, logarithmic) in wanted.items():
        if series.get(name) and not _is_silent(series, name):
            yield _panel(series, title, {name: ""}, factor, logarithmic)


def _panel(
    series: Series,
    title: str,
    labels: Mapping[str, str],
    factor: Number = 1.0,
    logarithmic: bool = False,
    marks: tuple[Number, ...] = (),
) -> tuple[Panel, str]:
    lines = [
        Line(label, _scaled(series[name], factor), number)
        for number, (name, label) in enumerate(labels.items())
        if series.get(name)
    ]
    return Panel(title, tuple(lines), "step", marks, logarithmic), _newest(lines)


def _newest(lines: Sequence[Line]) -> str:
    parts = (f"{line.label} {line.points[-1][1]:.4g}".strip() for line in lines)
    return f"newest: {', '.join(parts)}"


def _scaled(points: Sequence[Point], factor: Number) -> list[Point]:
    return [(x, factor * y) for x, y in points]


def _own(series: Series) -> list[str]:
    """The metrics that no other panel shows, held-out twins left out."""
    taken = {"loss", "val_loss", "knn", *OPTIMIZER, *MACHINE, *NO_CURVE}
    return [
        name for name in series if name not in taken and series[name]
        and not (name.startswith(HELD_OUT) and name.removeprefix(HELD_OUT) in series)
    ]  # fmt: skip


def _measures(runs: Any) -> list[str]:
    """The names of all runs: loss first, then what the methods log, then the optimizer and the machine."""
    order = ["loss", "val_loss", "knn"]
    rest = [*OPTIMIZER, *MACHINE]
    own = {name: None for series in runs for name in _own(series)}
    held_out = [HELD_OUT + name for name in own]
    names = [*order, *(n for pair in zip(own, held_out, strict=True) for n in pair), *rest]
    return [n for n in names if any(series.get(n) and not _is_silent(series, n) for series in runs)]


def _title(name: str) -> tuple[str, float, bool]:
    fixed = {"loss": "training loss", "val_loss": "held-out loss"}
    if name == "knn":
        return "kNN while training (%)", 100.0, False
    return {**OPTIMIZER, **MACHINE}.get(name) or (fixed.get(name) or _words(name), 1.0, False)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _is_silent(series: Series, name: str) -> bool:
    return name in SILENT_AT_ZERO and all(value == 0 for _, value in series[name])


def _by_epoch(runs: Sequence[Series]) -> bool:
    if len(runs) < 2 or not all(series.get("epoch") for series in runs):
        return False
    per_step = [series["epoch"][-1][1] / max(series["epoch"][-1][0], 1) for series in runs]
    return max(per_step) > 1.001 * min(per_step)
