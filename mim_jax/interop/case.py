"""A reference case on disk: settings, weights, inputs, expected outputs, tolerances."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mim_jax.errors import VerifyError


class Reading(Mapping):
    """A dictionary that says what it lacks in a sentence, and remembers what was read."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where = where
        self._values = dict(values)
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        if key not in self._values:
            raise VerifyError(f"{self.where} has no '{key}'; it has {', '.join(self._values) or 'nothing'}")
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        """As for a dictionary; a key that is asked for counts as read."""
        return self[key] if key in self else default  # noqa: SIM401

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def unread(self) -> list[str]:
        """The keys that nothing has asked for."""
        return [key for key in self._values if key not in self._read]


@dataclass(frozen=True)
class Exemption:
    """A wider tolerance that the case itself gives to some entries of some arrays.

    array: end of the array's name; entries: glob over the names of its entries, '*' for the whole array.
    per_entry: relative to each entry instead of the array's largest magnitude.
    """

    array: str
    entries: str
    tolerance: float
    per_entry: bool


@dataclass(frozen=True)
class Case:
    """One reference case. `strict`: largest difference divided by the largest magnitude of the array."""

    folder: Path
    method: str
    kind: str
    config: Reading
    inputs: Reading
    outputs: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    strict: float
    exemptions: tuple[Exemption, ...] = ()
    listed: tuple[str, ...] = ()  # outputs that case.json describes

    @property
    def title(self) -> str:
        return f"{self.method}/{self.folder.name}"


def load_case(folder: Path) -> Case:
    """Reads a case folder.

    Raises:
        VerifyError: a file that is missing, broken or lacks what every case has; one sentence with the file's name.
    """
    content = read_json(folder / "case.json")
    for key in ("method", "config", "tolerance"):
        if key not in content:
            raise VerifyError(f"{folder / 'case.json'} has no '{key}', so it is no reference case")
    config, tolerance = content["config"], content["tolerance"]
    if not isinstance(config, dict) or not isinstance(tolerance, dict):
        raise VerifyError(f"{folder / 'case.json'} is no reference case: 'config' and 'tolerance' must be objects")
    settings = Reading(config, f"the config in {folder / 'case.json'}")
    weights = folder / "weights.safetensors"
    return Case(
        folder=folder,
        method=str(content["method"]),
        kind=str(settings.get("kind", content.get("case", folder.name))),
        config=settings,
        inputs=Reading(read_npz(folder / "inputs.npz"), str(folder / "inputs.npz")),
        outputs=read_npz(folder / "outputs.npz"),
        weights=read_safetensors(weights) if weights.exists() or "weights" not in content else {},
        strict=_strict(tolerance, folder),
        exemptions=_exemptions(tolerance, content.get("notes", [])),
        listed=tuple(content.get("outputs", {})),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        VerifyError: no such file, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VerifyError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise VerifyError(f"{path} is not JSON: {error}; fetch it anew") from error
    if not isinstance(content, dict):
        raise VerifyError(f"{path} does not hold a JSON object")
    return content


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file; never unpickles.

    Raises:
        VerifyError: no such file, a damaged one, or arrays of Python objects.
    """
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise VerifyError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise VerifyError(f"{path} is not an npz file of plain arrays: {error}; fetch it anew") from error


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file.

    Raises:
        VerifyError: no such file, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise VerifyError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise VerifyError(f"{path} is not a sound safetensors file: {error}; fetch it anew") from error


def _strict(tolerance: Mapping[str, Any], folder: Path) -> float:
    for key in ("strict", "max_error_over_max_magnitude", "rtol"):
        value = tolerance.get(key)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    raise VerifyError(f"the tolerance in {folder / 'case.json'} has neither 'strict' nor 'rtol' as a positive number")


# A note such as 'compare change_norms of *.qkv.bias with rtol 5e-2' or 'the change norms of ...'.
_NOTE = re.compile(r"compare (?:the )?(\w[\w ]*?) of (\S+) with rtol (\d[\d.]*(?:e-?\d+)?)")


def _exemptions(tolerance: Mapping[str, Any], notes: list[str]) -> tuple[Exemption, ...]:
    whole = [Exemption(name, "*", float(value), False) for name, value in tolerance.get("exceptions", {}).items()]
    for note in notes:
        for array, entries, rtol in _NOTE.findall(str(note)):
            whole.append(Exemption(array.replace(" ", "_"), entries, float(rtol), True))
    return tuple(whole)
