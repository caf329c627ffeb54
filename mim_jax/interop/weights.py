"""Arrays of a weight file, by name. No file is ever unpickled: what could run code when it is opened is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.case import read_safetensors

TORCH_FILES = (".pt", ".pth", ".bin", ".pkl")


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, or of a torch file that holds a state dict, as float32.

    Raises:
        VerifyError: a safetensors file that is missing or damaged.
        DataError: another suffix, a file that holds more than tensors, or torch missing.
    """
    if path.suffix == ".safetensors":
        arrays = read_safetensors(path)
    elif path.suffix in TORCH_FILES:
        arrays = _read_torch(path)
    else:
        raise DataError(f"{path} is neither a .safetensors file nor one of torch ({', '.join(TORCH_FILES)})")
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise DataError(
            f"{path} is a torch file and torch is not installed; install it, or turn the file into .safetensors"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises what its unpickler, its zip reader and old formats raise
        raise DataError(
            f"{path} is damaged or holds more than tensors, and is not opened because a pickled module can run code; "
            "turn it into a state dict as docs/gallery/tokenizer.md says"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise DataError(f"{path} holds no state dict (tensors by name); save `module.state_dict()` instead")
    return {name: value.float().numpy() for name, value in content.items()}
