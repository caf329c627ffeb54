"""Records to batches, on the host. NumPy only: nothing here imports JAX or TensorFlow.

sources/ read records (`open_source`), decode.py makes pixels of them, views.py crops and flips, train.py and
ordered.py make batches (`train_batches`, `eval_batches`). Names are looked up on first use, so that importing this
package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Source": "sources.base",
    "open_source": "sources",
    "train_batches": "train",
    "steps_per_epoch": "train",
    "eval_batches": "ordered",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
