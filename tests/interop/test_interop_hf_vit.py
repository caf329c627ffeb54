"""Plain vision transformers between runs and transformers' classes."""

from __future__ import annotations

import pytest
from conversion import VIT, assert_compared, round_trip, tiny_run

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

DECODER = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)


@pytest.mark.parametrize("named", ["ViTModel", "ViTMSNModel"])
def test_encoder_of_mae(tmp_path, named):
    run = tiny_run(tmp_path / "run", "mae", VIT, DECODER)
    for done in round_trip(tmp_path, run, "hf", "mae", named=named):
        assert_compared(done, "block 1", "block 2", "tokens")


def test_encoder_without_class_token(tmp_path):
    sizes = dict(predictor_width=8, predictor_depth=1, predictor_heads=2, target_scale=(0.25, 0.3), min_keep=1)
    run = tiny_run(tmp_path / "run", "ijepa", VIT, sizes)
    small = ("method.min_keep=1", "method.target_scale=0.25,0.3")  # for so small a grid
    exported, _ = round_trip(tmp_path, run, "hf", "ijepa", overrides=small)
    assert exported.form == "IJepaModel"
    assert_compared(exported, "block 2", "tokens")


def test_mae_with_its_decoder(tmp_path):
    run = tiny_run(tmp_path / "run", "mae", VIT, DECODER)
    for done in round_trip(tmp_path, run, "hf", "mae", part="all"):
        assert_compared(done, "prediction", "loss")


def test_classifier(tmp_path):
    run = tiny_run(tmp_path / "run", "finetune", VIT, dict(classes=5, pooling="cls"))
    for done in round_trip(tmp_path, run, "hf", "finetune"):
        assert_compared(done, "block 2", "logits")
