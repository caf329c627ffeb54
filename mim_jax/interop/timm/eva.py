"""timm's Eva (EVA, EVA-02), which is known and refused: its rotary positions and its block are not implemented."""

from __future__ import annotations

from typing import Any

from mim_jax.errors import DataError
from mim_jax.interop.format import Format
from mim_jax.interop.name_map import NameMap
from mim_jax.interop.source import Source
from mim_jax.interop.system import Layout
from mim_jax.interop.timm.common import named

MISSING = "EVA-02 is not implemented yet: its rotary positions and its norms inside attention and perceptron"


def holds(source: Source) -> bool:
    return named(source).startswith("eva") or "blocks.0.attn.inner_attn_ln.weight" in source.state()


def settings(source: Source) -> dict[str, dict[str, Any]]:
    """`Format.settings`: there are none."""
    raise DataError(f"{source.path} is '{named(source) or 'Eva'}', and {MISSING}")


FORMATS = (
    Format(
        "Eva",
        "encoder",
        accepts=holds,
        settings=settings,
        refusal=lambda method: MISSING,
        layout=lambda method, names: Layout(NameMap(())),
    ),
)
