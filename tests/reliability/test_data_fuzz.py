"""Damaged files of every kind that is read: no crash, no hang, nothing written elsewhere, and each is named."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("MIM_JAX_SHARED", HERE.parent.parent.parent / "shared"))
sys.path.insert(0, str(HERE))
from mutations import KINDS  # noqa: E402

SECONDS = 20  # of computing, for one file
PEAK = 600 << 20  # bytes of memory of a process that reads damaged files; it takes 100 MB with nothing read
# Cases of each family: (in `make test`, among the slow ones). Ten thousand and more in all.
CASES = {
    "image": (180, 4800),
    "tar": (60, 1200),
    "parquet": (60, 1600),
    "arrayrecord": (40, 1000),
    "npy": (40, 600),
    "map": (30, 400),
    "cache": (30, 400),
    "tfds": (0, 200),  # its library takes seconds to be imported
}
LOST = "the damaged records, each named"
BAD = ("raised", "nameless", "died", "too slow")


def read_damaged(folder: Path, family: str, first: int, count: int) -> tuple[list[dict], int]:
    """What became of every case, those included at which the process died, and the most memory it took."""
    done, peak, end = [], 0, first + count
    photos = str(SHARED / "data" / "imagenet_sample")
    environment = {**os.environ, "TMPDIR": str(folder), "MIM_JAX_PHOTOS": photos}
    while first < end:
        command = [sys.executable, str(HERE / "fuzz_worker.py"), str(folder), family, first, end - first, SECONDS]
        ran = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=False, env=environment)
        lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
        done += [line for line in lines if "outcome" in line]
        peak = max([peak, *(line["peak"] for line in lines if "peak" in line)])
        if ran.returncode == 0:
            break
        assert any("number" in line for line in lines), ran.stderr[-2000:]
        first = lines[-1]["number"]
        outcome = "too slow" if -ran.returncode in (signal.SIGALRM, signal.SIGPROF) else "died"
        done.append(
            {"number": first, "kind": KINDS[first % len(KINDS)], "outcome": outcome, "sentence": ran.stderr[-300:]}
        )
        first += 1
    return done, peak


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def check(tmp_path: Path, family: str, first: int, count: int) -> tuple[list[dict], list[str]]:
    """The cases, and what is wrong with them."""
    (inside := tmp_path / family).mkdir()
    before = tree(tmp_path)
    done, peak = read_damaged(inside, family, first, count)
    wrong = [f"{family} {case}" for case in done if case["outcome"] in BAD]
    if len(done) != count:
        wrong.append(f"{family}: {len(done)} cases instead of {count}")
    if {case["outcome"] for case in done} != {"read", "named"}:  # some are only a little damaged
        wrong.append(f"{family}: {collections.Counter(case['outcome'] for case in done)}")
    if not 0 < peak < PEAK:
        wrong.append(f"{family}: peak of {peak >> 20} MB")
    if outside := {path for path in tree(tmp_path) - before if not path.startswith(f"{family}/")}:
        wrong.append(f"{family}: wrote {outside}")
    print(f"{family}: {len(done)} files, at most {peak >> 20} MB")
    return done, wrong


def survived(cases: list[dict]) -> dict[str, int]:
    return {"tried": len(cases), "survived": sum(case["outcome"] not in BAD for case in cases)}


@pytest.mark.parametrize("family", [family for family, (fast, _) in CASES.items() if fast])
def test_damaged_files(tmp_path, family, fault):
    done, wrong = check(tmp_path, family, 0, CASES[family][0])
    fault(f"damaged files, a sample: {family}", **survived(done), lost=LOST)
    assert wrong == []


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path, fault):
    """A row for every kind of damage and for every kind of file. MIM_JAX_TRIALS: files of each kind."""
    trials = int(os.environ.get("MIM_JAX_TRIALS", "0"))
    assert trials or sum(slow for _, slow in CASES.values()) >= 10_000
    done, wrong = {}, []
    for family, (_, count) in CASES.items():
        done[family], new = check(tmp_path, family, 10_000, trials or count)
        wrong += new
        fault(f"damaged files: {family}", **survived(done[family]), lost=LOST)
    for kind in KINDS:
        cases = [case for family in done.values() for case in family if case["kind"] == kind]
        fault(f"damaged files: {kind}", **survived(cases), lost=LOST)
    assert wrong == []
