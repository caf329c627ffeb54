"""A notebook as Markdown: its text as it is, its code in fences; it has no outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat


def markdown(path: Path) -> str:
    """The page of a notebook, with a line that says where the notebook is."""
    cells = nbformat.read(path, as_version=4).cells
    parts = [f"```python\n{c.source}\n```" if c.cell_type == "code" else c.source for c in cells]
    parts.insert(1, f"*This page is the notebook `docs/notebooks/{path.name}`; every cell of it is run by the tests.*")
    return "\n\n".join(parts) + "\n"
