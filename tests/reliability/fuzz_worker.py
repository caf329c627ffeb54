"""Reads damaged files, one after the other, and says of each what became of it; the parent sees where it died.

python fuzz_worker.py FOLDER FAMILY FIRST COUNT SECONDS: before a case its number goes out, after it one word and the
sentence. A case that computes for longer than SECONDS ends the process by SIGPROF, one that waits by SIGALRM.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]
MEMORY = 8 << 30  # of addresses: protects the machine; what is really used is measured
MAX_PIXELS = 4_000_000


def peak() -> int:
    """The most memory in bytes that this process has taken; `getrusage` counts its parent's in on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def clock(seconds: int) -> None:
    """Ends this process after so many seconds of work, or many more of waiting: a loop in C cannot be interrupted."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 15 * seconds)


def settings(source: str, fast: bool, cache: str = ""):
    from ml_collections import ConfigDict

    from mim_jax import recipes
    from mim_jax.data.settings import Settings

    data = ConfigDict(recipes.data())
    data.source, data.eval_resize, data.max_pixels = source, 8, MAX_PIXELS
    data.views.image.size = (8, 8)
    data.decode = "fast" if fast else "exact"
    data.cache, data.cache_dir = ("disk", cache) if cache else ("none", "")
    return Settings.from_config(data)


def read_all(spec: str, fast: bool, cache: str = "", most: int = 12) -> tuple[int, list[str]]:
    """Every record of a source as a run reads it; how many were whole, and what was said of the others."""
    from mim_jax.data.records import Records
    from mim_jax.data.sources import open_source
    from mim_jax.data.views import look
    from mim_jax.errors import DataError

    chosen = settings(spec, fast, cache)
    try:
        source = open_source(spec)
        records = Records(source, chosen)
        source.labels()
    except DataError as error:
        return 0, [str(error)]
    whole, said = 0, []
    for i in range(min(len(source), most)):
        try:
            picture, _ = records[i]
            look(chosen.views, picture, seed=0, epoch=0, index=i)
            whole += 1
        except DataError as error:
            said.append(str(error))
    return whole, said


def read_pair(spec: str) -> tuple[int, list[str]]:
    """As `read_all`, for an image and its map."""
    from mim_jax.data.pairs import Labels, open_pairs
    from mim_jax.errors import DataError

    try:
        open_pairs(spec).read(0, Labels(classes=8), max_pixels=MAX_PIXELS)
    except DataError as error:
        return 0, [str(error)]
    return 1, []


def prepare_tfds(folder: Path) -> list[Path]:
    """A prepared data set, and its files."""
    import mutations

    from mim_jax.data.convert import to_tfds

    if not (folder / "prepared").exists():
        (folder / "photos" / "cat").mkdir(parents=True)
        for i, data in enumerate(mutations.images()[:3]):
            (folder / "photos" / "cat" / f"{i}.png").write_bytes(data)
        to_tfds({"train": f"folder:{folder}/photos"}, "photos", folder / "prepared")
    return sorted(
        path for path in (folder / "prepared").rglob("*.*") if path.is_file() and ".json" not in path.suffixes
    )


def case(folder: Path, family: str, number: int) -> tuple[str, str, str]:
    """(kind of damage, what became of it, the sentence)."""
    from mutations import FAMILIES, KINDS, beside_a_map, mutate

    rng = np.random.default_rng([number, sum(family.encode())])
    kind = KINDS[number % len(KINDS)]
    others = [seed for seeds in SEEDS.values() for seed in seeds]
    own = SEEDS[family]
    data, other = own[int(rng.integers(len(own)))], others[int(rng.integers(len(others)))]
    damaged = mutate(rng, kind, data, other)
    fast = bool(rng.integers(2))
    if family == "cache":
        (target := next((folder / "cache").glob("*.pixels"))).write_bytes(damaged)
        whole, said = read_all(f"npy:{folder}/whole/x.npy", fast, str(folder / "cache"))
        name = target.name
    elif family == "tfds":
        path = PLACES[data]
        path.write_bytes(damaged)
        whole, said = read_all(f"tfds:{folder}/prepared/photos/1.0.0", fast)
        path.write_bytes(data)
        name = "photos/1.0.0"
    else:
        name, spec, _ = FAMILIES[family]
        if family == "map":
            beside_a_map(folder)
        (folder / name).write_bytes(damaged)
        whole, said = read_pair(spec.format(folder, folder)) if family == "map" else read_all(spec.format(folder), fast)
        name = Path(name).name
    nameless = [sentence for sentence in said if name not in sentence or "\n" in sentence]
    if nameless:
        return kind, "nameless", nameless[0]
    return kind, "named" if said else "read", said[0] if said else f"{whole} records"


def main() -> None:
    folder, family, first, count, seconds = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
    from mutations import FAMILIES, cache

    import mim_jax.data.records
    import mim_jax.data.views  # noqa: F401  imported before the clock starts

    SEEDS.update({key: make() for key, (_, _, make) in FAMILIES.items()})
    if family == "cache":
        SEEDS["cache"] = cache(folder, lambda source, to: read_all(source, False, to))
    if family == "tfds":
        PLACES.update({path.read_bytes(): path for path in prepare_tfds(folder)})
        SEEDS["tfds"] = list(PLACES)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(folder)
    for number in range(first, first + count):
        print(json.dumps({"number": number}), flush=True)
        clock(seconds)
        try:
            kind, outcome, sentence = case(folder, family, number)
        except Exception as error:
            kind, outcome, sentence = "", "raised", f"{type(error).__name__}: {error}"
        clock(0)
        print(json.dumps({"number": number, "kind": kind, "outcome": outcome, "sentence": sentence}), flush=True)
    print(json.dumps({"peak": peak()}), flush=True)


SEEDS: dict[str, list[bytes]] = {}
PLACES: dict[bytes, Path] = {}

if __name__ == "__main__":
    main()
