"""How the time of a training step grows with batch, image size, mask ratio and depth, beside how its FLOPs grow.

    python tools/bench/growth.py --plot growth.svg
    python tools/bench/growth.py --width 192 --axes depth --depths 4 8 16 32 --rounds 9

A small MAE (patches of 4 pixels, a decoder of one block) is changed in one respect at a time. All points of an axis are
compiled first, then take turns; the median of each counts. The exponent is the slope of a straight line through the
logarithms, of time and of `Method.flops()` alike: where both are equal, a step grows as its arithmetic does. What a
step costs whatever its size (dispatch, the optimizer) makes time's exponent smaller, never larger.

Axes: batch; image size, counted in patches; mask ratio, counted in the share that is seen; depth of the encoder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

PATCH = 4


@dataclasses.dataclass(frozen=True)
class Point:
    """One small MAE."""

    batch: int
    image: int
    mask_ratio: float
    depth: int
    width: int

    def overrides(self) -> list[str]:
        size = f"({self.image},{self.image})"
        return [
            f"training.batch_size={self.batch}",
            f"model.image_size={size}",
            f"data.views.image.size={size}",
            f"method.mask_ratio={self.mask_ratio}",
            f"model.depth={self.depth}",
            f"model.width={self.width}",
            f"model.heads={self.width // 32}",
        ]


def axes(args: argparse.Namespace) -> dict[str, list[tuple[float, Point]]]:
    """{axis: [(what the step is measured against, the model)]}."""
    base = Point(args.batch, args.image, 0.75, args.depth, args.width)
    change = dataclasses.replace
    found: dict[str, list[tuple[float, Point]]] = {
        "batch": [(float(n), change(base, batch=n)) for n in args.batches],
        "image size": [((n / PATCH) ** 2, change(base, image=n)) for n in args.images],
        "mask ratio": [(1 - share, change(base, mask_ratio=share)) for share in args.mask_ratios],
        "depth": [(float(n), change(base, depth=n)) for n in args.depths],
    }
    return {name: points for name, points in found.items() if name in args.axes}


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The power of x that y grows with: slope of a line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fitted(x: Sequence[float], seconds: Sequence[float], flops: Sequence[float]) -> dict[str, Any]:
    """An axis in numbers. last: the exponent between its two largest points, where constant costs weigh least."""
    order = np.argsort(x)
    x, seconds, flops = (np.asarray(values, float)[order] for values in (x, seconds, flops))
    return {
        "x": [round(float(v), 4) for v in x],
        "seconds": [round(float(v), 5) for v in seconds],
        "gflops": [round(float(v) / 1e9, 4) for v in flops],
        "exponent_of_time": round(exponent(x, seconds), 3),
        "exponent_of_flops": round(exponent(x, flops), 3),
        "last_exponent_of_time": round(exponent(x[-2:], seconds[-2:]), 3),
        "last_exponent_of_flops": round(exponent(x[-2:], flops[-2:]), 3),
    }


def measure(points: Sequence[Point], rounds: int, made: dict[Point, Any]) -> tuple[list[float], list[float]]:
    """(median seconds, FLOPs) of a step of each point; `made` keeps what was compiled for another axis."""
    from bare_step import ROOT, BareStep, load

    spec = f"{ROOT}/configs/mae/cifar10.py:variant=Ti/{PATCH},decoder_width=32,decoder_depth=1"
    flops = []
    for point in points:
        config, method = load(spec, point.overrides())
        if point not in made:
            made[point] = BareStep(config, method)
        flops.append(method.flops() * point.batch)
    seconds: list[list[float]] = [[] for _ in points]
    for _ in range(rounds):
        for found, point in zip(seconds, points, strict=True):
            found.append(made[point]())
    return [statistics.median(found) for found in seconds], flops


def plot(found: dict[str, dict[str, Any]], path: str) -> None:
    """One panel an axis: measured time, its line, and FLOPs scaled to meet it at the largest point."""
    from mim_jax.plotting import matplotlib

    names = {"batch": "images in the batch", "image size": "patches", "mask ratio": "share of patches seen"}
    figure = matplotlib().figure.Figure(figsize=(3.2 * len(found), 3.2), layout="constrained")
    for panel, (name, axis) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
        x, seconds, gflops = (np.asarray(axis[key]) for key in ("x", "seconds", "gflops"))
        slope, start = np.polyfit(np.log(x), np.log(seconds), 1)
        panel.loglog(x, seconds, "o", label="measured")
        panel.loglog(x, np.exp(start) * x**slope, "-", label=f"time ~ x^{slope:.2f}")
        panel.loglog(
            x, gflops * seconds[-1] / gflops[-1], "--", color="gray", label=f"FLOPs ~ x^{axis['exponent_of_flops']:.2f}"
        )
        panel.set(xlabel=names.get(name, "blocks of the encoder"), title=name)
        panel.set_xticks(x, [f"{value:g}" for value in x])
        panel.tick_params(axis="x", which="minor", labelbottom=False)
        panel.legend(fontsize="small")
    figure.axes[0].set_ylabel("seconds per step")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=["batch", "image size", "mask ratio", "depth"], metavar="AXIS")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--images", type=int, nargs="+", default=[16, 32, 48, 64], help="pixels, multiples of 4")
    parser.add_argument("--mask-ratios", type=float, nargs="+", default=[0.25, 0.5, 0.75, 0.875])
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--batch", type=int, default=16, help="where it is not the axis (default: %(default)s)")
    parser.add_argument("--image", type=int, default=32, help="likewise (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=4, help="likewise (default: %(default)s)")
    parser.add_argument("--width", type=int, default=96, help="a multiple of 32 (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", help="PNG or SVG")
    args = parser.parse_args()
    wanted = axes(args)
    if unknown := set(args.axes) - set(wanted):
        parser.error(f"unknown axis {', '.join(sorted(unknown))}; known: batch, 'image size', 'mask ratio', depth")
    if short := [name for name, points in wanted.items() if len({x for x, _ in points}) < 2]:
        parser.error(f"axis {short[0]} needs two different points for a slope")

    from bare_step import facts

    made: dict[Point, Any] = {}
    found = {}
    for name, points in wanted.items():
        seconds, flops = measure([point for _, point in points], args.rounds, made)
        found[name] = fitted([x for x, _ in points], seconds, flops)
    if args.plot:
        plot(found, args.plot)
    ratios = {
        f"time's exponent / FLOPs' exponent, {name}": round(axis["exponent_of_time"] / axis["exponent_of_flops"], 3)
        for name, axis in found.items()
    }
    print(json.dumps({
        "benchmark": "growth", "ratios": ratios, "better": "lower", "axes": found,
        "base": {"batch": args.batch, "image": args.image, "mask_ratio": 0.75, "depth": args.depth,
                 "width": args.width}, "rounds": args.rounds, **facts(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
