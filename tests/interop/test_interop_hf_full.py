"""One model of each family at its published size: number of parameters, strict loads, every block, bitwise and back."""

from __future__ import annotations

import re

import pytest
from hf_models import foreign, there_and_back
from safetensors.numpy import load_file

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

SWIN = dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], image_size=192, encoder_stride=32)
SHARED = dict(use_mask_token=True, use_shared_relative_position_bias=True)
CONVNEXT = dict(hidden_sizes=[128, 256, 512, 1024], depths=[3, 3, 27, 3], layer_scale_init_value=0.1)
FULL = {  # class -> method, sizes, what only their file has, parameters in all where they are published
    "ViTModel": ("mae", {}, "pooler", 0),
    "IJepaModel": ("ijepa", {}, "", 0),
    "ViTForImageClassification": ("finetune", {}, "", 86_567_656),
    "BeitForMaskedImageModeling": ("beit", SHARED, "", 0),
    "BeitForImageClassification": ("finetune", dict(use_relative_position_bias=True), "", 86_530_984),
    "Data2VecVisionModel": ("mae", dict(use_mean_pooling=False, use_shared_relative_position_bias=True), "", 0),
    "SwinForMaskedImageModeling": ("simmim", SWIN | dict(window_size=6), "", 0),
    "Swinv2ForMaskedImageModeling": ("simmim", SWIN | dict(window_size=12), "", 0),
    "ConvNextForImageClassification": ("finetune", CONVNEXT, "", 88_591_464),
    "ResNetForImageClassification": ("finetune", {}, "", 25_557_032),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size(tmp_path, name):
    method, sizes, drop, parameters = FULL[name]
    head = dict(num_labels=1000) if method == "finetune" else {}
    source = foreign(tmp_path / "theirs", name, noise=0.01, **sizes, **head)
    imported, exported = there_and_back(tmp_path, source, method, drop)
    for done in (imported, exported):
        assert not done.proof.reason and all(row.ok for row in done.proof.rows)
        assert {"tokens", "logits", "reconstruction"} & {row.name for row in done.proof.rows}
    # Of batch norms, the statistics are no parameters.
    arrays = load_file(source / "model.safetensors").items()
    own = sum(x.size for key, x in arrays if not re.search(rf"{drop or '$^'}|running_|num_batches", key))
    assert imported.parameters == own and parameters in (0, own)
    print(f"{name}: {own} parameters, largest difference {imported.proof.worst:.1e}, back {exported.proof.worst:.1e}")
