"""What the launchers share: names of TPUs, checks before anything costs money, the code as an archive of a commit,
and a way of running commands that can also only show them.

Code reaches the hosts as `git archive` of one commit: no host needs the repository's address or a key for it, the
configs and the lock files come with it, and what ran can be named. Uncommitted changes are refused, not left behind.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("train", "evaluate", "plan", "doctor", "config", "data", "show", "verify")
PYTHON = "3.12"
BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[\w.=/-]*)?")
NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


class LaunchError(Exception):
    """Something that is wrong before anything is started; one sentence."""


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A slice of TPUs by the name that Google Cloud knows it by. kind: of `mim-jax plan`; runtime: of its machines."""

    name: str
    kind: str
    chips: int
    hosts: int
    topology: str
    runtime: str


# Two families count their TensorCores, two to a chip (v4-128 is 64 chips); the others count chips. All have four chips
# a host in slices of several hosts. Shapes: docs.cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e.
SHAPES_3D = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
    1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip
SHAPES_2D = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
FAMILIES = {  # prefix of the name: (kind, units of the name in a chip, shapes, runtime)
    "v4": ("v4", 2, SHAPES_3D, "tpu-ubuntu2204-base"),
    "v5p": ("v5p", 2, SHAPES_3D, "v2-alpha-tpuv5"),
    "v5litepod": ("v5e", 1, SHAPES_2D, "v2-alpha-tpuv5-lite"),
    "v6e": ("v6e", 1, SHAPES_2D, "v2-alpha-tpuv6e"),
}


def accelerator(name: str) -> Accelerator:
    """A slice by name.

    Raises:
        LaunchError: no such slice, with those there are.
    """
    prefix, _, size = name.partition("-")
    if prefix not in FAMILIES or not size.isdigit():
        mend = "; v5e is called v5litepod" if prefix == "v5e" else ""
        raise LaunchError(f"--accelerator {name} is not one of {', '.join(f'{one}-N' for one in FAMILIES)}{mend}")
    kind, units, shapes, runtime = FAMILIES[prefix]
    chips = int(size) // units
    if int(size) % units or chips not in shapes:
        valid = ", ".join(f"{prefix}-{count * units}" for count in shapes)
        raise LaunchError(f"--accelerator {name}: there is no slice of {int(size) / units:g} chips; there are {valid}")
    single = units == 1 and chips == 8  # eight chips of v5e and v6e share one host
    return Accelerator(name, kind, chips, 1 if single else max(1, chips // 4), shapes[chips], runtime)


# ---- Arguments -------------------------------------------------------------------------------------------------------


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every launcher; what follows `--` is the command of mim-jax."""
    found = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="what follows -- is a command of mim-jax: -- train --config FILE.py --workdir gs://bucket/runs/name",
    )
    found.add_argument("--name", required=True, help="of the job: small letters, digits and -")
    found.add_argument("--dry-run", action="store_true", help="print what would be executed, and execute nothing")
    return found


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(arguments of the launcher, command of mim-jax).

    Raises:
        LaunchError: no command.
    """
    words = list(argv)
    if {"-h", "--help"} & set(words[: words.index("--")] if "--" in words else words):
        return ["--help"], []
    if "--" not in words or not words[words.index("--") + 1 :]:
        raise LaunchError("no command: end the line with -- train --config FILE.py --workdir gs://bucket/runs/name")
    at = words.index("--")
    return words[:at], words[at + 1 :]


def value(command: Sequence[str], flag: str) -> str:
    """The value of a flag in a command, '' where it has none."""
    for n, word in enumerate(command):
        if word == flag and n + 1 < len(command):
            return command[n + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return ""


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise LaunchError(f"--name {name} must be small letters, digits and -, and begin with a letter (at most 40)")


def check_bucket(bucket: str) -> None:
    if not BUCKET.fullmatch(bucket):
        raise LaunchError(
            f"--bucket {bucket} is not the name of a bucket, such as gs://my-bucket or gs://my-bucket/mim"
        )


def check_zone(zone: str) -> None:
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", zone):
        raise LaunchError(f"--zone {zone or '(none)'} is not a zone, such as us-central2-b")


def check_command(command: Sequence[str], shared: Sequence[str], root: Path = ROOT) -> None:
    """A command of mim-jax whose config is in the repository and whose workdir all hosts share.

    shared: what a shared workdir may begin with: 'gs://', or '/' for a network disk.

    Raises:
        LaunchError: what is wrong with it.
    """
    if command[0] not in COMMANDS:
        raise LaunchError(f"'{command[0]}' is not a command of mim-jax to launch; they are {', '.join(COMMANDS)}")
    config = value(command, "--config").partition(":")[0]
    if config and not (root / config).is_file():
        raise LaunchError(f"--config {config} is not a file of the repository ({root}); give its path from there")
    workdir = value(command, "--workdir")
    if command[0] == "train" and not workdir.startswith(tuple(shared)):
        raise LaunchError(
            f"--workdir {workdir or '(none)'}: every host has a disk of its own, so the run must be written to where "
            f"all can reach it: {' or '.join(f'{one}...' for one in shared)}"
        )


# ---- The code --------------------------------------------------------------------------------------------------------


def commit(root: Path = ROOT) -> str:
    """The commit to run.

    Raises:
        LaunchError: uncommitted changes, or no repository.
    """
    try:
        changed = git(root, "status", "--porcelain")
        head = git(root, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        raise LaunchError(f"{root} is no git repository: a launcher runs one of its commits") from error
    if changed:
        first = changed.splitlines()[0][3:]
        raise LaunchError(f"uncommitted changes ({first}, ...) would not reach the hosts: commit them, or stash them")
    return head


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.rstrip()


def archive(head: str) -> Path:
    """Where the archive of a commit is made, outside of the repository."""
    return Path(tempfile.gettempdir()) / f"mim_jax-{head[:12]}.tar.gz"


def archive_command(head: str, root: Path = ROOT) -> list[str]:
    return ["git", "-C", str(root), "archive", "--format=tar.gz", f"--output={archive(head)}", head]


def install(extra: str, python: str = PYTHON) -> list[str]:
    """Lines of a shell script, in the folder of the code: an environment in .venv from the lock file, with hashes.

    extra: tpu or gpu, for what depends on the accelerator and is therefore not in the lock.
    """
    lock = f"constraints/py{python.replace('.', '')}.txt"
    pip, extra = "python3 -m uv pip install --quiet --python .venv/bin/python", {"gpu": "cuda13"}.get(extra, extra)
    return [
        "python3 -m pip install --quiet --user uv",
        f"python3 -m uv venv --quiet --allow-existing --python {python} .venv",
        f"{pip} --require-hashes --no-deps -r {lock}",
        f"{pip} --no-deps --editable .",
        # what depends on the accelerator and the storage, for the jax of the lock
        f"{pip} gcsfs \"jax[{extra}]==$(.venv/bin/python -c 'import jax; print(jax.__version__)')\"",
    ]


# ---- Running commands, or showing them -------------------------------------------------------------------------------


class Shell:
    """Runs commands given as words, never through a shell; with dry_run, prints them as they could be typed."""

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run

    def say(self, sentence: str) -> None:
        print(f"# {sentence}", flush=True)

    def run(
        self, words: Sequence[str], *, answer: str = "", check: bool = True, quiet: bool = False
    ) -> tuple[int, str]:
        """(exit code, output). answer: what a dry run takes the output to be. quiet: asked again and again, not shown.

        Raises:
            LaunchError: it failed, where `check` is set.
        """
        if self.dry_run or not quiet:
            print(shlex.join(words), flush=True)
        if self.dry_run:
            return 0, answer
        try:
            done = subprocess.run(list(words), stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise LaunchError(
                f"{words[0]} cannot be run ({error.strerror}): install it, or use another launcher"
            ) from error
        if done.stdout and not quiet:
            print(done.stdout, end="", flush=True)
        if check and done.returncode:
            raise LaunchError(f"`{shlex.join(words)[:200]}` failed with exit code {done.returncode}")
        return done.returncode, done.stdout.strip()


def fail(error: LaunchError) -> int:
    print(f"launch: {error}", file=sys.stderr)
    return 2
