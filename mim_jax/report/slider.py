"""What a run predicted on the same images over time, with a slider over the steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mim_jax.report import embed, html, metrics
from mim_jax.report.run_files import RunFiles

MOST = 24  # pictures in the slider, evenly spread over those that there are
ROOM = 6e6  # characters for all of them: many large pictures are packed smaller
ALT = "grid of images, one row each: what went in, what was hidden, what was predicted, and the error"


def part(run: RunFiles) -> str:
    """The section of the page; '' where nothing was drawn yet."""
    during = run.glob("pictures/step_*.png")
    chosen = spread(during, MOST)
    # They are alike, so the newest says how all of them have to be packed.
    pack = embed.fitting(chosen[-1], ROOM / len(chosen)) if chosen else embed.LADDER[0]
    packed = [(path, source) for path in chosen if (source := embed.picture(path, pack=pack))]
    parts = [_slider(run, packed)] if packed else []
    if lost := [path.name for path in chosen if path not in dict(packed)]:
        parts.append(html.note(f"not readable as PNG, and left out: {', '.join(lost)}"))
    if len(during) > MOST:
        parts.append(html.note(f"{MOST} of {len(during)} pictures, evenly spread; all are in pictures/ of the run."))
    return "\n".join([*parts, _shown(run)])


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most `most`, evenly spread, the first and the last among them."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def words(name: str, series: metrics.Series) -> str:
    """What the picture of a step is called: its step and, where that was logged, its epoch."""
    digits = re.fullmatch(r"step_(\d+)", name)
    if not digits:
        return name.replace("_", " ")
    step = int(digits[1])
    epoch = f" (epoch {metrics.epoch_of(series, step):.4g})" if series.get("epoch") else ""
    return f"step {step:,}{epoch}"


def _slider(run: RunFiles, packed: Sequence[tuple[Path, str]]) -> str:
    """All pictures, of which the newest alone shows until the slider is moved."""
    last = len(packed) - 1
    figures = []
    for number, (path, source) in enumerate(packed):
        text = words(path.stem, run.series)
        hidden = "" if number == last else " hidden"
        picture = f'<img class="paper" src="{html.escape(source)}" alt="{html.escape(f"{text}: {ALT}")}">'
        figures.append(f'<figure data-words="{html.escape(text)}"{hidden}>{picture}</figure>')
    newest = words(packed[-1][0].stem, run.series)
    bar = (
        f'<div class="slider" hidden><label for="when">Step</label>\n'
        f'<input type="range" id="when" min="0" max="{last}" step="1" value="{last}" autocomplete="off">\n'
        f'<output for="when">{html.escape(newest)}</output></div>\n'
    )
    plain = f"<noscript>{html.note(f'The newest picture, {newest}; the slider needs scripts.')}</noscript>\n"
    return f"<div data-slider>\n{bar if last else ''}{plain if last else ''}" + "\n".join(figures) + "\n</div>"


def _shown(run: RunFiles) -> str:
    """The newest picture that `mim-jax show` drew."""
    found = sorted(run.glob("pictures/show*.png"), key=lambda path: path.stat().st_mtime)
    source = embed.picture(found[-1]) if found else None
    if not source:
        return ""
    drawn = html.figure(source, f"drawn by mim-jax show: {ALT}", found[-1].name, paper=True)
    return html.details("drawn by mim-jax show", drawn) if run.glob("pictures/step_*.png") else drawn
