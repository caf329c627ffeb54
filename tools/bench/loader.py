"""Loaders: our training pipeline against a torch DataLoader with Pillow and against tf.data, on this machine's cores.

    python tools/bench/loader.py --data 'wds:DIR/*.tar' --cifar 'parquet:DIR/train-*.parquet' --tf-python TF/bin/python

Full-size JPEG files, random resized crop to 224, flip, batches of uint8; nothing is cached. Each side is a process of
its own, pinned to as many cores as it has workers (one for 0 workers, which decodes in the main process). Sides take
turns, the others stopped; before a turn is timed, what its pipeline had ready is taken out. Figures are medians over
the rounds, ratios the medians of each round's ratio. TensorFlow is no dependency: --tf-python names an interpreter that
has it. Its side is timed with its usual resize too, which does not antialias and so is less work than ours.
"""

from __future__ import annotations

import argparse
import glob
import io
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import Any

BATCH, SIZE, SCALE, RATIO = 32, 224, (0.2, 1.0), (3 / 4, 4 / 3)
DRAIN, TIMED = 8, 10  # batches
CIFAR_GOAL = 20_000  # images a second on two cores


def ours(data: str, workers: int, decode: str) -> Iterator[Any]:
    """The pipeline of `mim-jax train`."""
    from mim_jax import recipes
    from mim_jax.data.train import train_batches

    config = recipes.pretrain()
    config.data.update(source=data, workers=workers, decode=decode, cache="none", threads=max(2, workers))
    return train_batches(config.data, seed=0, batch_size=BATCH)


def torch_loader(data: str, workers: int) -> Iterator[Any]:
    """The same work by Pillow, as torchvision's RandomResizedCrop and RandomHorizontalFlip do it on Pillow images."""
    import numpy as np
    import torch
    from PIL import Image

    from mim_jax.data.crops import random_resized_box
    from mim_jax.data.sources import open_source

    torch.set_num_threads(1)
    source = open_source(data)

    class Photos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(source)

        def __getitem__(self, i: int) -> Any:
            image = Image.open(io.BytesIO(source[i]["image"])).convert("RGB")
            rng = np.random.default_rng()
            top, left, h, w = random_resized_box(rng, image.height, image.width, SCALE, RATIO)
            image = image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return torch.from_numpy(np.array(image)), i

    class Endless(torch.utils.data.Sampler):
        """So that no turn waits for workers to start."""

        def __iter__(self) -> Iterator[int]:
            while True:
                yield from torch.randperm(len(source)).tolist()

    return iter(torch.utils.data.DataLoader(Photos(), BATCH, sampler=Endless(), num_workers=workers))


def tf_data(data: str, workers: int, antialias: bool) -> Iterator[Any]:
    """tf.data with the fused decode-and-crop; the files are in memory already."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    threads = max(1, workers)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)

    def one(file: Any) -> Any:
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(file),
            tf.zeros([0, 0, 4]),
            min_object_covered=0.0,
            area_range=SCALE,
            aspect_ratio_range=RATIO,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(file, window, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE), "bicubic", antialias=antialias)
        return tf.cast(tf.clip_by_value(tf.round(tf.image.random_flip_left_right(image)), 0, 255), tf.uint8)

    files = []
    for path in sorted(glob.glob(data.partition(":")[2])):
        with tarfile.open(path) as tar:
            files += [tar.extractfile(m).read() for m in tar if m.name.lower().endswith((".jpg", ".jpeg"))]  # type: ignore[union-attr]
    images = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    return iter(images.map(one, num_parallel_calls=threads).batch(BATCH, drop_remainder=True).prefetch(2))


SIDES = {
    "torch": torch_loader,
    "exact": lambda data, workers: ours(data, workers, "exact"),
    "fast": lambda data, workers: ours(data, workers, "fast"),
    "tf": lambda data, workers: tf_data(data, workers, antialias=False),
    "tf_antialias": lambda data, workers: tf_data(data, workers, antialias=True),
}


def serve(side: str, data: str, workers: int) -> None:
    """A side's process: for every line on stdin, prints the seconds of `TIMED` batches."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: max(1, workers)])
    batches = SIDES[side](data, workers)
    for _ in sys.stdin:
        for _ in range(DRAIN):
            next(batches)
        start = time.perf_counter()
        for _ in range(TIMED):
            next(batches)
        print(time.perf_counter() - start, flush=True)
    os._exit(0)


def photos(data: str, tf_python: str, workers: int, rounds: int) -> dict[str, list[float]]:
    """Images a second per core of every side, one figure a round."""
    running: dict[str, subprocess.Popen] = {}
    for side in SIDES:
        if side.startswith("tf") and not tf_python:
            continue
        python = tf_python if side.startswith("tf") else sys.executable
        command = [python, os.path.abspath(__file__), "--data", data, "--serve", side, "--workers", str(workers)]
        running[side] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,
        )
    rates: dict[str, list[float]] = {side: [] for side in running}
    try:
        for number in range(rounds + 1):
            for side, process in running.items():
                assert process.stdin and process.stdout
                os.killpg(process.pid, signal.SIGCONT)
                process.stdin.write("go\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"the side '{side}' ended; run it by itself: {' '.join(map(str, process.args))}")  # type: ignore[arg-type]
                # Stopped, or it would fill its buffers in the time of the next one.
                os.killpg(process.pid, signal.SIGSTOP)
                if number:  # the first turn warms up
                    rates[side].append(BATCH * TIMED / float(line) / max(1, workers))
    finally:
        for process in running.values():
            os.killpg(process.pid, signal.SIGCONT)
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()
    return rates


def small_records(data: str, batch_size: int, rounds: int) -> list[float]:
    """Images a second of CIFAR-size records on two cores, whole pipeline, after the first epoch."""
    from mim_jax import recipes
    from mim_jax.data.train import train_batches

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    config = recipes.pretrain("cifar10")
    config.data.source = data
    batches = train_batches(config.data, seed=0, batch_size=batch_size)
    for _ in range(batches.steps_per_epoch + 8):
        next(batches)
    rates, count = [], -(-20_000 // batch_size)
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            next(batches)
        rates.append(count * batch_size / (time.perf_counter() - start))
    batches.close()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="JPEG files, as a `wds:` source")
    parser.add_argument("--cifar", default="", help="CIFAR-size records, as any source")
    parser.add_argument("--tf-python", default="", help="an interpreter with TensorFlow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.data, args.workers[0])
    if not args.tf_python:
        print("tf.data is left out: no --tf-python", file=sys.stderr)

    from mim_jax.training.resolve import versions

    details: dict[str, Any] = {}
    records: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    for workers in args.workers if args.data else ():
        rates = photos(args.data, args.tf_python, workers, args.rounds)
        details[f"workers_{workers}"] = {side: round(statistics.median(found), 1) for side, found in rates.items()}
        for side in ("exact", "fast"):
            for other in ("torch", "tf", "tf_antialias"):
                if other in rates:
                    pairs = zip(rates[side], rates[other], strict=True)
                    ratios[f"{side}/{other}, {workers} workers"] = round(statistics.median(a / b for a, b in pairs), 3)
    for batch_size in (256, 1024) if args.cifar else ():
        found = small_records(args.cifar, batch_size, args.rounds)
        records[f"batch_{batch_size}"] = {"median": round(statistics.median(found)), "best": round(max(found))}
        ratios[f"cifar, batch {batch_size}, of {CIFAR_GOAL} a second on 2 cores"] = round(
            statistics.median(found) / CIFAR_GOAL, 3
        )
    print(json.dumps({
        "benchmark": "loader", "ratios": ratios, "images_per_second_per_core": details,
        "cifar_images_per_second_2_cores": records, "rounds": args.rounds,
        "command": "python " + " ".join(sys.argv),
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "versions": versions(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
