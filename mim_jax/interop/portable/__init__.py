"""Forms that need no library of models: our arrays by name, and the encoder as a program (StableHLO, ONNX)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mim_jax.errors import ConfigError
from mim_jax.interop.format import classifies
from mim_jax.interop.portable import arrays, onnx, stablehlo
from mim_jax.interop.portable.function import part_function
from mim_jax.interop.proof import Proof
from mim_jax.training.runs import Run

KINDS = ("safetensors", "npz", "onnx", "saved-jax")
PROGRAMS = {"onnx": onnx, "saved-jax": stablehlo}


def writer(run: Run, to: str, part: str) -> tuple[str, str, Callable[[Path], None]]:
    """(name of the form, part, function that fills a folder).

    Raises:
        ConfigError: a part that the run or the form does not have.
    """
    usual = "classifier" if classifies(run.method) else "all" if to in ("safetensors", "npz") else "encoder"
    part = part or usual
    if to in PROGRAMS:
        function = part_function(run, part)
        return f"{PROGRAMS[to].NAME}", part, partial(PROGRAMS[to].write, run=run, function=function)
    if part == "classifier" and not classifies(run.method):
        raise ConfigError(f"a run of {run.method.name} has no classifier; take --part encoder or all")
    return to, part, partial(arrays.write, run=run, part=part, kind=to)


def prove(run: Run, to: str, part: str, folder: Path, tolerance: float) -> Proof:
    """Reads what was written and compares: arrays bit by bit, programs on images."""
    if to in PROGRAMS:
        return PROGRAMS[to].prove(folder, run, part_function(run, part), tolerance)
    return arrays.prove(folder, run, part, to)
