"""Importing torch and the libraries of models that stand on it, where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from mim_jax.interop.format import CannotRun

# Operators that torchvision describes when it is imported, and that only its compiled part defines.
OPERATORS = {
    "nms": "nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[Any] = []  # torch forgets what a library declared once it is collected


def declare_operators() -> None:
    """Lets timm and transformers be imported beside a torchvision whose compiled part does not fit the torch that is
    installed (as beside a torch for CPUs alone): both import it, and neither calls its detection operators here."""
    import torch

    if _declared:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, definition in OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(definition)
    _declared.append(library)


def module(name: str) -> Any:
    """A library of models, such as 'transformers' or 'timm'.

    Raises:
        CannotRun: it, or torch, is missing or cannot be imported.
    """
    try:
        importlib.import_module("torch")
        if importlib.util.find_spec("torchvision"):
            declare_operators()
        return importlib.import_module(name)
    except ImportError as error:
        raise CannotRun(f"{error.name or name} is not installed") from error
    except Exception as error:  # whatever goes wrong while such a library is imported
        raise CannotRun(f"{name} cannot be imported here: {(str(error).splitlines() or [''])[0]}") from error
