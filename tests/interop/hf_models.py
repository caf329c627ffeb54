"""What the tests of transformers' formats share: foreign models with random weights, and their round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from mim_jax.interop.exporting import Exported, export_run
from mim_jax.interop.importing import Imported, import_run
from mim_jax.interop.torch_side import module

TINY = dict(
    image_size=16,
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
)


def foreign(folder: Path, name: str, noise: float = 0.1, **sizes: Any) -> Path:
    """A model of transformers as it saves one: noise on every parameter and every running statistic."""
    torch, transformers = module("torch"), module("transformers")
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer += 0.1 * torch.randn_like(buffer)
            elif key.endswith("running_var"):
                buffer += torch.rand_like(buffer)
    model.save_pretrained(folder)
    return folder


def there_and_back(
    tmp_path: Path, source: Path, method: str, drop: str = "", **choice: Any
) -> tuple[Imported, Exported]:
    """Theirs -> ours -> theirs: every array bit by bit as it was, but for those whose name contains `drop`."""
    given = {key: choice.pop(key) for key in ("overrides",) if key in choice}
    imported = import_run(source, tmp_path / "run", library="hf", method=method, say=lambda _: None, **choice, **given)
    choice |= {"part": imported.form.part, "named": imported.form.name}
    exported = export_run(tmp_path / "run", tmp_path / "again", to="hf", **choice)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "again"))
    kept = {name for name in before if not (drop and drop in name)}
    assert kept == {name for name in after if not (drop and drop in name)}
    for name in kept:
        assert before[name].shape == after[name].shape and before[name].dtype == after[name].dtype, name
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    return imported, exported


def loads_silently(folder: Path, auto: str, name: str) -> Any:
    """The library's own automatic loader finds the class, and nothing is missing, left over or of another shape."""
    transformers = module("transformers")
    model, report = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == name
    assert not any(report.get(what) for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model
