"""Pairs of views of made-up scenes with their depth, for systems that learn from pairs: no data set is needed.

    python tools/walkthrough/scenes.py OUT --train 2000 --test 300

A scene is a wall and some upright boards before it, each with a pattern whose period is a length in the scene, so that
near ones look coarse. The second camera stands to the right of the first. Written are views/NAME_1.png and
views/NAME_2.png (`scenes:OUT/train/views`), and for dense evaluation left/NAME.png with depth/NAME.png in millimetres.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64  # pixels of a side
FOCAL = 64.0  # pixels: 53 degrees of view
BASELINE = 0.4  # metres between the cameras


def board(rng: np.random.Generator, wall: bool) -> dict:
    """A plane that faces the cameras. Lengths in metres."""
    depth = rng.uniform(8, 10) if wall else rng.uniform(1.5, 8)
    reach = 0.4 * depth  # of what the first camera sees of that plane, from its axis
    return {
        "depth": depth,
        "centre": np.zeros(2) if wall else rng.uniform(-reach, reach, 2),
        "half": np.full(2, 100.0) if wall else rng.uniform(0.4, 1.0, 2),
        "period": rng.uniform(0.25, 0.4),
        "angle": rng.uniform(0, np.pi),
        "colours": rng.uniform(0, 1, (2, 3)),
        "checks": rng.random() < 0.5,
    }


def paint(boards: list[dict], camera: float) -> tuple[np.ndarray, np.ndarray]:
    """What a camera at `camera` metres to the right sees: image (SIZE, SIZE, 3) in uint8, and depth in metres."""
    place = (np.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL
    image, depth = np.zeros((SIZE, SIZE, 3)), np.zeros((SIZE, SIZE))
    for plane in sorted(boards, key=lambda plane: -plane["depth"]):
        x = place[None, :] * plane["depth"] + camera - plane["centre"][0]
        y = place[:, None] * plane["depth"] - plane["centre"][1]
        inside = (abs(x) < plane["half"][0]) & (abs(y) < plane["half"][1])
        cos, sin = np.cos(plane["angle"]), np.sin(plane["angle"])
        wave = np.sin(2 * np.pi * (cos * x + sin * y) / plane["period"])
        if plane["checks"]:
            wave = wave * np.sin(2 * np.pi * (cos * y - sin * x) / plane["period"])
        share = (wave[..., None] + 1) / 2
        colour = share * plane["colours"][0] + (1 - share) * plane["colours"][1]
        image, depth = np.where(inside[..., None], colour, image), np.where(inside, plane["depth"], depth)
    return np.round(image * 255).astype(np.uint8), depth


def write(folder: Path, count: int, seed: int) -> None:
    """`count` scenes below a folder; the same for the same seed."""
    for name in ("views", "left", "depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        boards = [board(rng, wall=True), *(board(rng, wall=False) for _ in range(rng.integers(3, 7)))]
        left, depth = paint(boards, 0.0)
        right, _ = paint(boards, BASELINE)
        Image.fromarray(left).save(folder / "views" / f"{number:05}_1.png")
        Image.fromarray(right).save(folder / "views" / f"{number:05}_2.png")
        Image.fromarray(left).save(folder / "left" / f"{number:05}.png")
        Image.fromarray(np.round(depth * 1000).astype(np.uint16)).save(folder / "depth" / f"{number:05}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=2000, help="scenes to learn from (default: 2000)")
    parser.add_argument("--test", type=int, default=300, help="and to be judged on (default: 300)")
    args = parser.parse_args()
    write(args.out / "train", args.train, 0)
    write(args.out / "test", args.test, 1)


if __name__ == "__main__":
    main()
