"""What the tests of conversion share: tiny runs with noise on every leaf, and the round trip of a format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mim_jax.interop.exporting import Exported, export_run
from mim_jax.interop.format import formats
from mim_jax.interop.imported import config_of
from mim_jax.interop.importing import Imported, import_run
from mim_jax.interop.matrix import random_run
from mim_jax.training.groups import flat
from mim_jax.training.runs import load_run

VIT = dict(image_size=(16, 16), patch_size=(4, 4), width=16, depth=2, heads=2)


def tiny_run(out: Path, method: str, model: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Path:
    """A run with random weights of a model that a test describes."""
    return random_run(out, config_of(method, {"model": model, "method": settings or {}}))


def round_trip(tmp_path: Path, run: Path, to: str, method: str, **choice: Any) -> tuple[Exported, Imported]:
    """Ours -> theirs -> ours: compared by running both sides where they can run, and equal bit by bit."""
    given = {key: choice.pop(key) for key in ("config", "model", "overrides") if key in choice}
    exported = export_run(run, tmp_path / "theirs", to=to, **choice)
    imported = import_run(tmp_path / "theirs", tmp_path / "back", library=to, method=method, **choice, **given)
    assert imported.form.name == exported.form and imported.form.part == exported.part
    before, after = load_run(run), load_run(tmp_path / "back")
    form = next(f for f in formats(to) if f.name == exported.form and f.part == exported.part)
    parts = [flat(form.part_of(r.method, r.variables)) for r in (before, after)]
    assert parts[0].keys() == parts[1].keys()
    for path, leaf in parts[0].items():
        np.testing.assert_array_equal(leaf, parts[1][path], err_msg=path)
    return exported, imported


def assert_compared(done: Exported | Imported, *names: str) -> None:
    """Both sides ran, and these arrays were compared."""
    assert not done.proof.reason
    assert set(names) <= {row.name for row in done.proof.rows}
    assert all(row.ok for row in done.proof.rows)
