"""Where foreign weights come from: a file, a folder as a library saves it, or a name on a hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.case import read_json
from mim_jax.interop.weights import SUFFIXES, read_weights

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# In the order in which a folder is searched.
USUAL = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WRAPPERS = ("model", "state_dict", "model_state", "module", "net", "params")


@dataclass(frozen=True)
class Source:
    """Foreign weights, read.

    arrays: under the names of the file. config: of the `config.json` beside them, {} where there is none.
    given: what the user said that the files do not say, such as the name of a timm model.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    config: Mapping[str, Any] = field(default_factory=dict)
    given: str = ""

    def state(self) -> dict[str, np.ndarray]:
        """The arrays without the names that training scripts wrap around all of them (`model.`, `module.`)."""
        arrays = dict(self.arrays)
        while True:
            first = {name.partition(".")[0] for name in arrays}
            wrapper = next(iter(first)) if len(first) == 1 else ""
            if wrapper not in WRAPPERS:
                return arrays
            arrays = {name.partition(".")[2]: array for name, array in arrays.items()}

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent


def read_source(where: str | Path, given: str = "") -> Source:
    """Reads a weight file, a folder, or (where neither exists and a network is there) a repository of a hub.

    Raises:
        DataError: nothing there, no weights in it, several to choose from, or a hub that cannot be reached.
        VerifyError: a damaged file.
    """
    path = Path(where)
    if not path.exists():
        path = _from_hub(str(where))
    if path.is_dir():
        arrays = _folder_arrays(path)
        config = read_json(path / "config.json") if (path / "config.json").exists() else {}
    else:
        arrays, beside = read_weights(path), path.parent / "config.json"
        config = read_json(beside) if beside.exists() and path.name in USUAL else {}
    if not arrays:
        raise DataError(f"{path} holds no arrays; give a file of weights")
    return Source(path, arrays, config, given)


def _folder_arrays(folder: Path) -> dict[str, np.ndarray]:
    for name in INDEXES:
        if (folder / name).exists():
            return _sharded(folder / name)
    for name in USUAL:
        if (folder / name).exists():
            return read_weights(folder / name)
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if len(files) == 1:
        return read_weights(files[0])
    if files:
        raise DataError(f"{folder} holds {len(files)} weight files ({files[0].name}, ...); give one of them")
    raise DataError(
        f"{folder} holds no weights: neither {USUAL[0]} nor another {', '.join(SUFFIXES)}; give the folder that does"
    )


def _sharded(index: Path) -> dict[str, np.ndarray]:
    """Weights in several files, which an index names."""
    parts = read_json(index).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise DataError(f"{index} is no index of weight files: it has no 'weight_map'; fetch it anew")
    arrays: dict[str, np.ndarray] = {}
    for name in sorted(set(map(str, parts.values()))):
        if Path(name).name != name:
            raise DataError(f"{index} names '{name}', which lies outside its folder; put it beside the index")
        arrays |= read_weights(index.parent / name)
    lacking = sorted(set(parts) - set(arrays))
    if lacking:
        raise DataError(f"{index} names the array '{lacking[0]}', which none of its files holds; fetch them anew")
    return arrays


def _from_hub(name: str) -> Path:
    """The folder of a repository, fetched; only weights and JSON."""
    if not HUB_NAME.fullmatch(name):
        raise DataError(f"{name} does not exist; give a file, a folder, or OWNER/NAME of the hub")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise DataError(
            f"{name} does not exist here, and huggingface_hub, which could fetch it, is missing: "
            "pip install mim_jax[interop]"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.bin"]))
    except Exception as error:  # of the network, the hub, the disk
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{name} does not exist here and could not be fetched from the hub: {reason}; give a file or folder "
            "that is here"
        ) from error


def text(values: Mapping[str, Any]) -> str:
    """JSON as libraries write it."""
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
