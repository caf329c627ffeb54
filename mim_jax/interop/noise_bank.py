"""Banks of filtered noise on disk (ColorMAE): made from their settings, or the authors' own files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mim_jax.errors import ConfigError
from mim_jax.masking.colour_noise import NoiseConfig
from mim_jax.replacing import replacing

MEND = "make one by `mim-jax data noise FOLDER`"


def make(config: NoiseConfig, folder: str | Path) -> Path:
    """Writes the bank of a config into a folder; its name is the colour and a hash of all settings, and a file of that
    name is kept.

    Raises:
        ConfigError: the folder cannot be written.
    """
    settings = {**dataclasses.asdict(config), "source": "", "sigmas": config.blurs}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(folder) / f"noise-{config.colour}-{digest}.npy"
    if path.exists():
        return path
    whole = np.asarray(jax.jit(config.bank)())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.save(file, whole)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; give another folder") from error
    return path


def load(path: Path) -> Float[np.ndarray, "K S T"]:
    """The images of a bank: the array of an .npy file, or the only one of an .npz file.

    Raises:
        ConfigError: no such file, or something else in it.
    """
    where = f"method.noise.source '{path}'"
    try:
        found: Any = np.load(path, mmap_mode=None if path.suffix == ".npz" else "r")
        if isinstance(found, np.lib.npyio.NpzFile):
            names = found.files
            if len(names) != 1:
                raise ConfigError(f"{where} holds the arrays {', '.join(names)}; a bank of noise is one array")
            found = found[names[0]]
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{where} is no array file (.npy or .npz): {error}; {MEND}") from error
    if found.ndim != 3 or found.dtype.kind not in "fiu":
        raise ConfigError(f"{where} holds {found.dtype} of shape {found.shape}; a bank is numbers (images, side, side)")
    return found


def check(path: Path, method: Any) -> None:
    """Compares a file's shape with what the config says of it."""
    wanted, shape = method.noise, load(path).shape
    if shape != (wanted.count, wanted.size, wanted.size):
        raise ConfigError(
            f"method.noise.source '{path}' holds images of shape {shape}, but method.noise.count is {wanted.count} and "
            f"method.noise.size {wanted.size}; set them to {shape[0]} and {shape[1]}"
        )


def read(path: Path, method: Any, shapes: Any) -> Float[np.ndarray, "K S T"]:
    """The bank as `frozen` holds it; every image must have values that differ, and none that is not finite."""
    found = np.asarray(load(path), np.float32)
    if not np.isfinite(found).all():
        raise ConfigError(f"method.noise.source '{path}' holds values that are not finite; {MEND}")
    return found
