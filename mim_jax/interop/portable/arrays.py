"""Our arrays by path in one safetensors or npz file, with the run's config beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mim_jax import config as configs
from mim_jax.interop.case import read_npz, read_safetensors
from mim_jax.interop.compare import Row
from mim_jax.interop.portable.function import part_weights
from mim_jax.interop.proof import Proof
from mim_jax.training.runs import Run


def write(folder: Path, run: Run, part: str, kind: str) -> None:
    """weights.safetensors or weights.npz, and config.json."""
    found = {name: np.ascontiguousarray(leaf) for name, leaf in part_weights(run, part).items()}
    if kind == "npz":
        np.savez(folder / "weights.npz", **found)  # type: ignore[arg-type]
    else:
        from safetensors.numpy import save_file

        save_file(found, folder / "weights.safetensors")
    configs.save(run.config, folder / "config.json")


def prove(folder: Path, run: Run, part: str, kind: str) -> Proof:
    """What was written against the run, bit by bit."""
    read = read_npz(folder / "weights.npz") if kind == "npz" else read_safetensors(folder / "weights.safetensors")
    expected = {name: np.asarray(leaf) for name, leaf in part_weights(run, part).items()}
    equal = read.keys() == expected.keys() and all(
        read[name].dtype == leaf.dtype and np.array_equal(read[name], leaf) for name, leaf in expected.items()
    )
    note = f"{len(expected)} arrays, equal" if equal else "the file does not hold the arrays of the run"
    return Proof((Row("arrays", ok=equal, note=note),))
