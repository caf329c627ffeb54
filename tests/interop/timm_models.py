"""Models of timm for the tests: randomly initialised, tiny, saved by timm itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mim_jax.interop.case import read_safetensors
from mim_jax.interop.exporting import Exported, export_run
from mim_jax.interop.importing import Imported, import_run
from mim_jax.interop.torch_side import module


def foreign(folder: Path, name: str, noise: float = 0.1, **arguments: Any) -> Path:
    """A model with noise on every array, as timm saves it for its hub; statistics of batch norms stay positive."""
    timm, torch = module("timm"), module("torch")
    torch.manual_seed(7)
    model = timm.create_model(name, pretrained=False, **arguments)
    with torch.no_grad():
        for array_name, array in model.state_dict().items():
            if array.is_floating_point():
                moved = array + noise * torch.randn_like(array)
                array.copy_(moved.abs() + 0.5 if array_name.endswith("running_var") else moved)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return folder


def there_and_back(
    tmp_path: Path, source: Path, method: str, changed: Mapping[str, str] | None = None, **choice: Any
) -> tuple[Imported, Exported]:
    """Theirs -> ours -> theirs: every array comes back bit by bit, but those that match a key of `changed`, which says
    what becomes of them."""
    imported = import_run(source, tmp_path / "run", library="timm", method=method, say=lambda _: None, **choice)
    exported = export_run(tmp_path / "run", tmp_path / "again", to="timm", named=imported.form.name)
    assert exported.form == imported.form.name
    before, after = (read_safetensors(folder / "model.safetensors") for folder in (source, tmp_path / "again"))
    left = set(changed or ())
    assert set(before) - left == set(after) - left
    for name in set(before) & set(after) - left:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    return imported, exported


def loads_quietly(folder: Path, caplog: Any) -> Any:
    """timm's own loader takes a folder without a word of warning; the model."""
    timm = module("timm")
    with caplog.at_level(logging.INFO):
        caplog.clear()
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    said = [record.getMessage() for record in caplog.records]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], said
    assert not any("issing keys" in message or "nexpected keys" in message for message in said), said
    return model
