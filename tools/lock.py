"""`make constraints`: the lock files; every package pinned, every file of it on any platform known by its SHA-256.

One file for what a part of the installation adds, so that each is installed by itself:
`pip install --no-deps --require-hashes --requirement FILE`. Needs uv, which resolves for Pythons that are not here.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "constraints"
PYTHONS = ("3.11", "3.12")
# What torch alone needs to run on a GPU: it stays out of the lock where a build for CPUs can be had.
_TORCH = re.compile(r"(torch|triton|cuda-.*|nvidia-.*)$")
_INTEROP = ("torch", "transformers", "onnx", "onnx-ir", "onnxruntime")
# Installed without their dependencies. torchvision's compiled operators are for a GPU, and only its Python is needed;
# jax2onnx asks for an older Orbax, which its conversion does not use, and for those below it.
_ALONE = ("timm", "torchvision", "jax2onnx", "dm-pix", "equinox", "chex", "toolz")
_TOOLS = ("uv", "pip-audit")

Blocks = dict[str, str]  # name of a package -> its lines


def resolve(requirements: list[str], python: str, pins: Blocks, *options: str) -> Blocks:
    """What uv chooses, with hashes; `pins` are kept. requirements: as in a requirements file."""
    constraints = "".join(f"{block.split(' ', 1)[0]}\n" for block in pins.values())
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", python, "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-config", *options]
    folder = FOLDER / ".resolving"
    folder.mkdir(exist_ok=True)
    try:
        wanted, fixed = folder / "wanted.in", folder / "fixed.txt"
        wanted.write_text("\n".join(requirements) + "\n")
        fixed.write_text(constraints)
        done = subprocess.run([*command, "--constraint", fixed, wanted], capture_output=True, text=True, check=False)
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    if done.returncode:
        sys.exit(done.stderr)
    return blocks(done.stdout)


def blocks(text: str) -> Blocks:
    """A lock file taken apart. Packages that appear twice, with markers that exclude each other, stay together."""
    found: Blocks = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE):
        if name := re.match(r"[\w.-]+", block):
            found[name[0]] = found.get(name[0], "") + block
    return found


def read(name: str) -> Blocks:
    """The packages of `constraints/NAME.txt`, none where there is no such file."""
    path = FOLDER / f"{name}.txt"
    return blocks(path.read_text()) if path.exists() else {}


def write(name: str, sentence: str, found: Blocks) -> None:
    """Writes `constraints/NAME.txt`."""
    (FOLDER / f"{name}.txt").write_text(f"# {sentence}\n# Written by `make constraints`.\n{''.join(found.values())}")
    print(f"constraints/{name}.txt: {len(found)} packages")


def lock(project: dict, python: str, build: Blocks, keep: bool) -> None:
    """The files of one Python. keep: the versions that are locked now, where they still serve."""
    tag = f"py{python.replace('.', '')}"
    extras = project["project"]["optional-dependencies"]
    parts = ("", "-dev", "-docs", "-interop", "-torch")
    pins: Blocks = {}
    for part in parts if keep else ():
        pins |= read(tag + part)

    needed = project["project"]["dependencies"]
    every = resolve([*needed, *extras["dev"], *extras["fast"]], python, pins)
    fixed = pins | build | every
    base = resolve(needed, python, fixed)
    write(tag, f"What mim_jax needs on Python {python}.", base)
    write(f"{tag}-dev", "What the tests, the linters and data.decode = fast need besides.", _less(every, base))

    docs = resolve(extras["docs"], python, fixed)
    write(f"{tag}-docs", "What builds the documentation besides.", _less(docs, every | build))

    other = resolve(list(_INTEROP), python, fixed | docs)
    alone = resolve(list(_ALONE), python, fixed, "--no-deps")
    there = _less(other, every | build)  # and not less docs: each is installed without the other
    torch = {name: block for name, block in there.items() if _TORCH.match(name)}
    write(
        f"{tag}-interop",
        "What the comparisons with PyTorch and the conversions need besides.",
        _less(there, torch) | alone,
    )
    write(f"{tag}-torch", "torch, where no build for CPUs alone can be had (torch-cpu.txt).", torch)


def _less(found: Blocks, others: Blocks) -> Blocks:
    """What is not in others already, or is there for some platforms only."""
    return {name: block for name, block in found.items() if _platforms(others.get(name)) not in ("", _platforms(block))}


def _platforms(block: str | None) -> str | None:
    """The marker of a locked package, '' where it has none."""
    return block and block.split(" \\\n", 1)[0].partition(" ; ")[2]


def main() -> None:
    """Writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the versions that are locked now")
    keep = parser.parse_args().keep
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = resolve(project["build-system"]["requires"], PYTHONS[0], read("build") if keep else {})
    write("build", "What builds mim_jax and the packages that come as source.", build)
    for python in PYTHONS:
        lock(project, python, build, keep)
    tools = resolve(list(_TOOLS), PYTHONS[0], read("tools") if keep else {})
    write("tools", "What writes and audits these files; never installed beside mim_jax.", tools)


if __name__ == "__main__":
    main()
