"""Arrays of a weight file, by name. No pickle is ever executed: what could run code when it is opened is refused."""

from __future__ import annotations

import argparse
import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mim_jax.errors import DataError
from mim_jax.interop.case import read_npz, read_safetensors

TORCH_FILES = (".pt", ".pth", ".pyth", ".bin", ".pkl", ".tar", ".ckpt")
SUFFIXES = (".safetensors", ".npz", *TORCH_FILES)
# Parts of a training checkpoint that are no weights of a model.
STATE = (
    "optimizer",
    "opt",
    "optimizer_state",
    "optimizer_states",
    "scaler",
    "scheduler",
    "lr_scheduler",
    "lr_schedulers",
)
Arrays = dict[str, np.ndarray]


def read_weights(path: Path) -> Arrays:
    """All arrays of a safetensors, npz or torch file, floating ones as float32.

    A torch file may nest them, as training checkpoints do: `{'model': {'cls_token': ...}}` gives 'model.cls_token'.
    What is no tensor (an epoch, a namespace of arguments) and the state of optimizers are left out.

    Raises:
        VerifyError: a file that is missing or damaged.
        DataError: another suffix, a file that holds more than tensors and numbers, or torch missing.
    """
    if path.suffix == ".safetensors":
        arrays: Mapping[str, Any] = read_safetensors(path)
    elif path.suffix == ".npz":
        arrays = read_npz(path)
    elif path.suffix in TORCH_FILES:
        arrays = _read_torch(path)
    else:
        raise DataError(
            f"{path} is neither .safetensors nor .npz nor a file of torch ({', '.join(TORCH_FILES)}); give one of these"
        )
    return {name: _float32(np.asarray(array)) for name, array in arrays.items()}


def _float32(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind in "iub" else array.astype(np.float32)


def _read_torch(path: Path) -> Arrays:
    try:
        import torch
    except ImportError as error:
        raise DataError(
            f"{path} is a torch file and torch is not installed; install it, or turn the file into .safetensors"
        ) from error
    try:
        # Many training scripts store their arguments: a namespace, which is a plain bag of values and runs nothing, or
        # a node of yacs, a dictionary that is read as one of Python's own.
        with torch.serialization.safe_globals([argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; make it readable") from error
    except Exception as error:  # torch raises what its unpickler, its zip reader and old formats raise
        raise DataError(
            f"{path} is damaged or holds more than tensors, and is not opened because a pickled module can run code; "
            "turn it into a state dict as docs/gallery/tokenizer.md says"
        ) from error
    found = dict(_tensors(content, ""))
    if not found:
        raise DataError(f"{path} holds no state dict (tensors by name); save `module.state_dict()` instead")
    return found


def _tensors(content: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of nested dicts, under names joined by dots."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if not (name == "" and str(key) in STATE):
                yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif hasattr(content, "detach"):
        with contextlib.suppress(TypeError):  # quantised and sparse tensors are no weights that we know
            value = content.detach()
            yield name, (value.float() if value.is_floating_point() else value).numpy()
