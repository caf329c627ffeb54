"""What a pod would do, by a stated model: weak scaling, input, and checkpoints. Nothing of it is a measurement.

    python tools/bench/scaling_model.py weak --config configs/mae/imagenet1k.py:variant=L/16
    python tools/bench/scaling_model.py input --chips 256 --per-chip-rate 2000
    python tools/bench/scaling_model.py checkpoint --measure /data/scratch

weak: a step takes arithmetic or memory time over the efficiency (assumed), and the exchange of the gradients, either
after it or beside its backward part. input: bytes and cores from --bytes-per-image and --images-per-core (measured:
docs/performance.md). checkpoint: bytes of the state; --measure writes such arrays by Orbax and times it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from mim_jax import config as configs
from mim_jax import pretrain
from mim_jax.errors import MimError
from mim_jax.training import roofline
from mim_jax.training.hardware import CHIPS, Chip
from mim_jax.training.traced import cost

GRADIENT_BYTES = 2  # a parameter: gradients are exchanged in bf16 (tools/bench/scaling.py reads it in the programs)
HOP = 1e-6  # seconds a hop of a ring: assumed
BACKWARD = 2 / 3  # share of a step that is the backward pass
# Bytes/s a chip to the data centre's network, and chips a slice. v5e and v6e: docs.cloud.google.com/tpu/docs, "network
# bandwidth per Pod" over 256 chips. v5p: Austin et al., How to Scale Your Model, chapter on TPUs. v4: none published.
DCN = {"v5e": (3.125e9, 256), "v6e": (12.5e9, 256), "v5p": (6.25e9, 6144)}
SIDES = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}
COUNTS = (16, 64, 256, 512, 1024, 4096)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    weak = kinds.add_parser("weak")
    weak.add_argument("--config", default="configs/mae/imagenet1k.py:variant=L/16", metavar="SPEC")
    weak.add_argument("--device", action="append", default=[], help="v4, v5e, v5p, v6e (default: all)")
    weak.add_argument("--per-chip", type=int, action="append", default=[], help="images a chip (default: 64 and 16)")
    weak.add_argument("--efficiency", type=float, default=roofline.EFFICIENCY)
    weak.set_defaults(run=weak_scaling)
    feed = kinds.add_parser("input")
    feed.add_argument("--chips", type=int, required=True)
    feed.add_argument("--per-chip-rate", type=float, required=True, help="images/s that a chip trains on")
    feed.add_argument("--images", type=float, default=1e9)
    feed.add_argument("--bytes-per-image", type=float, default=116e3)
    feed.add_argument("--images-per-core", type=float, default=494.0)
    feed.add_argument("--chips-per-host", type=int, default=4)
    feed.set_defaults(run=input_needed)
    saving = kinds.add_parser("checkpoint")
    saving.add_argument("--config", action="append", default=[], metavar="SPEC")
    saving.add_argument("--measure", type=Path, help="a folder to write into, and to leave empty")
    saving.add_argument("--bytes", type=float, default=1.34e9, help="to write (default: the state of MAE-B)")
    saving.set_defaults(run=checkpoint)
    args = parser.parse_args()
    try:
        print(json.dumps({"command": " ".join(["python", *sys.argv]), **args.run(args)}, indent=1))
    except MimError as error:
        print(f"scaling_model: {error}", file=sys.stderr)
        return 2
    return 0


# ---- Weak scaling ----------------------------------------------------------------------------------------------------


def weak_scaling(args: argparse.Namespace) -> dict[str, Any]:
    config = configs.load(args.config)
    method = pretrain.check_all(config)
    traced = cost(config, method)
    gradients = GRADIENT_BYTES * traced.parameters
    rows = []
    for name in args.device or SIDES:
        chip = CHIPS[name]
        for images in args.per_chip or (64, 16):
            work = roofline.Work(method.flops() * images, traced.step_bytes(images, 1, 1), 0.0, 0.0)
            alone = roofline.step(work, chip, 1, config.training.precision, efficiency=args.efficiency).seconds
            row: dict[str, Any] = {"device": name, "images_per_chip": images, "step_ms": 1e3 * alone}
            for chips in COUNTS:
                moved = exchange_seconds(chip, chips, gradients)
                row[str(chips)] = None if moved is None else efficiencies(alone, moved)
            rows.append(row)
    return {"gradient_bytes": gradients, "efficiency": args.efficiency, "hop_seconds": HOP, "rows": rows}


def efficiencies(alone: float, moved: float) -> dict[str, float]:
    """Of a step that takes `alone` seconds on one chip: with its exchange after it, and beside its backward part."""
    beside = (1 - BACKWARD) * alone + max(BACKWARD * alone, moved)
    return {"exchange_ms": 1e3 * moved, "after": alone / (alone + moved), "beside": alone / beside}


def exchange_seconds(chip: Chip, chips: int, size: float) -> float | None:
    """An all-reduce of `size` bytes: in rings over all links of a slice, and between slices by the data centre's
    network, each chip with its share; None where that is not published."""
    most = DCN.get(chip.name, (0.0, chip.domain))[1]
    inside = min(chips, most)
    side = inside ** (1 / SIDES[chip.name])
    seconds = roofline.network_seconds(chip, inside, size) + 2 * SIDES[chip.name] * (side - 1) * HOP
    if chips <= most:
        return seconds
    if chip.name not in DCN:
        return None
    slices = chips / most
    return seconds + 2 * (slices - 1) / slices * size / inside / DCN[chip.name][0]


# ---- Input -----------------------------------------------------------------------------------------------------------


def input_needed(args: argparse.Namespace) -> dict[str, Any]:
    rate, hosts = args.chips * args.per_chip_rate, args.chips / args.chips_per_host
    return {
        "images_per_second": rate,
        "bytes_per_second": rate * args.bytes_per_image,
        "bytes_per_second_per_host": rate * args.bytes_per_image / hosts,
        "cores_per_host": rate / hosts / args.images_per_core,
        "stored_bytes": args.images * args.bytes_per_image,
        "epoch_hours": args.images / rate / 3600,
    }


# ---- Checkpoints -----------------------------------------------------------------------------------------------------


def checkpoint(args: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"state_bytes": {}}
    for spec in args.config:
        config = configs.load(spec)
        traced = cost(config, pretrain.check_all(config))
        result["state_bytes"][spec] = traced.state
    if args.measure:
        result["measured"] = write_rate(args.measure, args.bytes)
    return result


def write_rate(folder: Path, size: float, repeats: int = 3) -> dict[str, Any]:
    """Bytes/s at which Orbax writes arrays of 4 MB from this process into a folder, until they are on the disk."""
    import numpy as np
    import orbax.checkpoint as ocp

    rng = np.random.default_rng(0)
    arrays = {f"array_{n}": rng.standard_normal(2**20, np.float32) for n in range(max(1, round(size / 2**22)))}
    seconds = []
    for _ in range(repeats):
        place = Path(tempfile.mkdtemp(dir=folder))
        with ocp.StandardCheckpointer() as writer:
            start = time.perf_counter()
            writer.save(place / "state", arrays)
            writer.wait_until_finished()
            os.sync()
            seconds.append(time.perf_counter() - start)
        shutil.rmtree(place)
    written = sum(array.nbytes for array in arrays.values())
    return {"bytes": written, "seconds": seconds, "bytes_per_second": written / sorted(seconds)[repeats // 2]}


if __name__ == "__main__":
    sys.exit(main())
