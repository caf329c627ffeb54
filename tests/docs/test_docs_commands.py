"""Every command line of the documentation is one that mim-jax understands, and the configs it names are there."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from mim_jax import cli, shipped
from mim_jax.commands.base import parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "results" / "README.md", *ROOT.glob("docs/**/*.md")])
VARIABLE = re.compile(r"^(?:\w+=\S+ )+")  # of the environment, before the command


def commands(text: str) -> list[str]:
    """Lines of code that begin with `mim-jax`: continued ones joined, without the remark behind them."""
    found = []
    for line in re.sub(r" *\\\n\s*", " ", text).splitlines():
        line = VARIABLE.sub("", line.strip())
        if line.startswith("mim-jax ") and not re.search(r"\.\.\.| [\"']?\$", line):  # left out, or in variables
            found.append(re.split(r" {2,}| # ", line)[0])
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: os.path.relpath(path, ROOT))
def test_command_lines_are_understood(path):
    for line in commands(path.read_text()):
        words = shlex.split(line)[1:]
        if cli._general(words):
            continue
        command, rest = cli._find(words)
        args = parse(command, rest)
        for name in ("config", "spec"):
            spec = getattr(args, name, "") or ""
            file = str(spec).partition(":")[0]
            if re.search(r"^configs/|^[a-z0-9_]+/(cifar10|imagenet1k|digits)", file) and "mosaic" not in file:
                assert os.path.isfile(shipped.find_config(file)), line


def test_command_lines_are_found():
    text = "    mim-jax show RUN      draws\n    A=1 mim-jax eval RUN \\\n        --knn\n    mim-jax train ... x\n"
    assert commands(text) == ["mim-jax show RUN", "mim-jax eval RUN --knn"]
    assert sum(len(commands(path.read_text())) for path in PAGES) > 80
