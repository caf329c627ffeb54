"""Plain vision transformers between runs and transformers' classes."""

from __future__ import annotations

import pytest
from conversion import VIT, assert_compared, round_trip, tiny_run
from hf_models import TINY, foreign, there_and_back

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

from mim_jax.errors import DataError  # noqa: E402
from mim_jax.interop.format import formats  # noqa: E402
from mim_jax.interop.huggingface.common import mlp_ratio  # noqa: E402
from mim_jax.interop.importing import import_run  # noqa: E402
from mim_jax.methods.finetune import Finetune  # noqa: E402

DECODER = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)


@pytest.mark.parametrize("named", ["ViTModel", pytest.param("ViTMSNModel", marks=pytest.mark.slow)])
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


def test_their_encoders_inside_classes_with_heads(tmp_path):
    """Arrays of the heads are left behind by name, and the encoder alone is compared."""
    fixed = dict(decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    small = ("method.mask_unit=8",)
    for name, own in (("ViTForImageClassification", {}), ("ViTMAEForPreTraining", fixed)):
        source = foreign(tmp_path / name, name, **TINY, **own)
        out = tmp_path / f"{name} as simmim"
        done = import_run(source, out, library="hf", method="simmim", overrides=small, say=lambda _: None)
        assert_compared(done, "block 1", "block 2", "tokens")


@pytest.mark.slow
def test_encoder_of_mae_alone(tmp_path):
    imported, _ = there_and_back(tmp_path / "mae", foreign(tmp_path / "a", "ViTMAEModel", **TINY), "mae")
    assert_compared(imported, "block 2", "tokens")


@pytest.mark.slow
def test_classifier_of_msn_whose_blocks_its_library_writes_without_prefix(tmp_path):
    source = foreign(tmp_path / "theirs", "ViTMSNForImageClassification", **TINY, num_labels=3)
    imported = import_run(source, tmp_path / "run", library="hf", method="finetune", say=lambda _: None)
    assert_compared(imported, "block 2", "logits")
    for done in round_trip(tmp_path / "again", imported.out, "hf", "finetune", named="ViTMSNForImageClassification"):
        assert_compared(done, "block 2", "logits")


def test_classifier_of_ijepa_is_no_classifier_here(tmp_path):
    source = foreign(tmp_path / "theirs", "IJepaForImageClassification", **TINY, num_labels=3)
    with pytest.raises(DataError, match="averages the tokens after the final norm"):
        import_run(source, tmp_path / "out", library="hf", method="finetune")
    small = ("method.min_keep=1", "method.target_scale=0.25,0.3", "method.predictor_heads=2")
    done = import_run(source, tmp_path / "run", library="hf", method="ijepa", overrides=small, say=lambda _: None)
    assert_compared(done, "block 2", "tokens")
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_is_no_plain_one_is_refused_with_every_reason(tmp_path):
    forms = {form.name: form for form in formats("hf")}
    built = Finetune.from_config(VIT, dict(classes=5, pooling="mean"))
    assert "ends with a norm" in forms["ViTModel"].refusal(built)
    assert "class token" in forms["IJepaModel"].refusal(built)
    assert "pools by the class token" in forms["ViTForImageClassification"].refusal(built)
    built = Finetune.from_config(VIT | dict(layer_scale=0.1), dict(classes=5, pooling="cls"))
    assert "layer scale" in forms["ViTModel"].refusal(built)
    built = Finetune.from_config(VIT | dict(registers=2), dict(classes=5, pooling="cls"))
    assert "model.registers" in forms["ViTModel"].unheld(built)


@pytest.mark.parametrize("hidden, width", [(6144, 1408), (4304, 1152), (3072, 768), (32, 16), (1000, 768)])
def test_the_width_of_a_perceptron_survives_the_ratio(hidden, width):
    assert int(width * mlp_ratio(hidden, width)) == hidden
