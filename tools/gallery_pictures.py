"""One picture for each page of the gallery: a very short run of the system on digits, drawn by `mim-jax show`.

    python tools/gallery_pictures.py               all systems, one after the other: minutes each on two cores
    python tools/gallery_pictures.py mae maskfeat  these alone, and what they need

The images are scikit-learn's handwritten digits, which are free to publish. The configs are the systems' own for
32 pixels, made as small as tools/same_budget.py makes them. Runs are kept in --runs; one that is there is continued.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from same_budget import COMMON, SYSTEMS  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "images" / "gallery"
DIGITS = ("data.mean=0.3,0.3,0.3", "data.std=0.35,0.35,0.35", "data.views.image.flip=0")
DIGITS += ("training.batch_size=64", "training.precision=fp32", "training.tensorboard=False")
TEACHER = ("method.teacher.mean=0.3,0.3,0.3", "method.teacher.std=0.35,0.35,0.35")  # was trained on digits too


def train_command(name: str, runs: Path, epochs: float) -> list[str]:
    """`mim-jax train` of a system on digits, as small as it goes."""
    system = SYSTEMS[name]
    values = {"source": "digits:train", "eval_source": "digits:test", "epochs": epochs}
    if system.needs:
        values[system.takes] = runs / system.needs
    budget = dict(pair.split("=") for pair in system.arguments.split(",") if pair)
    given = ",".join(f"{key}={value}" for key, value in (budget | values).items())
    changes = [*system.encoder, *COMMON, *system.changes, *DIGITS]
    if any(change.startswith("method.teacher.") for change in system.changes):
        changes += TEACHER
    config = f"configs/{name}/cifar10.py:{given}"
    return ["train", "--config", config, "--workdir", str(runs / name), *(f"--config.{c}" for c in changes)]


def needed(names: list[str]) -> list[str]:
    """The systems that are asked for, each behind the one whose run it reads."""
    found: list[str] = []
    for name in names:
        for one in (*(needed([SYSTEMS[name].needs]) if SYSTEMS[name].needs else ()), name):
            if one not in found:
                found.append(one)
    return found


def main() -> int:
    """Returns 1 where a system failed; its output says why, and the others are drawn all the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SYSTEMS, []], metavar="NAME", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "gallery")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures")
    parser.add_argument("--epochs", type=float, default=10.0, help="of 1,438 digits (default: 10)")
    parser.add_argument("--count", type=int, default=4, help="images in a picture (default: 4)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in needed(args.names or list(SYSTEMS)):
        run, picture = str(args.runs / name), str(args.out / f"{name}.png")
        for command in (
            train_command(name, args.runs, args.epochs),
            ["show", run, "--count", str(args.count), "--out", picture],
        ):
            if subprocess.run([sys.executable, "-m", "mim_jax", *command], cwd=ROOT, check=False).returncode:
                failed.append(name)
                break
    if failed:
        print(f"no picture of {', '.join(failed)}: see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
