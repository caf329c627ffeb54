"""Draws docs/images/frame.svg, the four choices of a system: python tools/frame_figure.py"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch  # noqa: E402

from mim_jax.replacing import replacing

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "frame.svg"
BLUE, GREY = "#4c6ef5", "#868e96"  # readable on white and on black: the background is transparent
# (x, y, width, text, whether it is one of the four choices)
BOXES = {
    "images": (0.0, 1.0, 1.3, "images", False),
    "draw": (1.9, 1.0, 2.0, "1  what is hidden\ndraw", True),
    "encoder": (4.5, 1.0, 1.5, "encoder\nencode", False),
    "predictor": (6.6, 1.0, 2.1, "3  who predicts\nforward", True),
    "error": (9.3, 0.5, 2.3, "4  how the error\nis measured", True),
    "target": (4.5, 0.0, 4.2, "2  what is predicted\npixels, features, tokens ...", True),
    "keep": (4.5, 2.0, 1.5, "kept", False),
}
HEIGHT = 0.62
ARROWS = [("images", "draw"), ("draw", "encoder"), ("encoder", "predictor"), ("predictor", "error"),
          ("target", "error"), ("images", "target"), ("encoder", "keep")]  # fmt: skip


def centre(name: str) -> tuple[float, float]:
    x, y, width, *_ = BOXES[name]
    return x + width / 2, y + HEIGHT / 2


def ends(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves one box and reaches the other: sideways, or upwards."""
    (x0, y0, w0, *_), (x1, y1, *_) = BOXES[start], BOXES[end]
    if x1 == x0:
        return (centre(start)[0], y0 + HEIGHT), (centre(end)[0], y1)
    first = (centre(start)[0], y0) if (start, end) == ("images", "target") else (x0 + w0, centre(start)[1])
    return first, (x1, centre(end)[1])


def draw() -> bytes:
    """The figure as SVG, the same bytes every time."""
    plt.rcParams.update({"svg.hashsalt": "mim_jax", "svg.fonttype": "path", "font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(figsize=(9.6, 2.5))
    for x, y, width, text, choice in BOXES.values():
        colour = BLUE if choice else GREY
        box = FancyBboxPatch((x, y), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.1", fc="none", ec=colour)
        axes.add_patch(box)
        axes.text(x + width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=8.5, color=colour)
    for start, end in ARROWS:
        bend = "angle,angleA=-90,angleB=180,rad=0" if (start, end) == ("images", "target") else "arc3"
        arrow = dict(arrowstyle="-|>", mutation_scale=9, color=GREY, connectionstyle=bend, shrinkA=0, shrinkB=0)
        axes.add_patch(FancyArrowPatch(*ends(start, end), **arrow))
    axes.set(xlim=(-0.1, 11.7), ylim=(-0.1, 2.75))
    axes.axis("off")
    out = io.BytesIO()
    figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return out.getvalue()


if __name__ == "__main__":
    with replacing(OUT) as temporary:
        temporary.write_bytes(draw())
    print(OUT)
