"""BEiT and Data2VecVision between runs and transformers' classes."""

from __future__ import annotations

import pytest
from conversion import VIT, assert_compared, round_trip, tiny_run
from hf_models import TINY, foreign, loads_silently, there_and_back

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

from mim_jax.errors import ConfigError, DataError  # noqa: E402
from mim_jax.interop.exporting import export_run  # noqa: E402
from mim_jax.interop.importing import import_run  # noqa: E402
from mim_jax.training.runs import load_run  # noqa: E402

TOKENIZER = dict(kind="vq", image_size=(16, 16), stride=4, vocabulary=11, hidden=8)
BEIT = dict(num_mask_patches=6, min_block=2, tokenizer=TOKENIZER)
# What a file of transformers does not say of the tokenizer: a small one, where the default is DALL-E's.
SMALL = ("method.num_mask_patches=6", "method.min_block=2", "method.tokenizer.hidden=8", "method.tokenizer.kind=vq")


def test_encoder_of_beit_with_a_shared_table(tmp_path):
    run = tiny_run(tmp_path / "run", "beit", VIT, BEIT)
    for done in round_trip(tmp_path, run, "hf", "beit", config=load_run(run).config, part="encoder"):
        assert_compared(done, "block 1", "block 2", "tokens")
    loads_silently(tmp_path / "theirs", "AutoModel", "BeitModel")


def test_beit_with_its_head(tmp_path):
    run = tiny_run(tmp_path / "run", "beit", VIT | dict(positions="learned"), BEIT)
    for done in round_trip(tmp_path, run, "hf", "beit", overrides=SMALL, part="all"):
        assert_compared(done, "block 1", "block 2", "logits")


SLOW = pytest.mark.slow
CLASSIFIERS = [
    pytest.param("Beit", "mean"),
    pytest.param("Beit", "cls", marks=SLOW),
    pytest.param("Data2VecVision", "mean", marks=SLOW),
    pytest.param("Data2VecVision", "cls", marks=SLOW),
]


@pytest.mark.parametrize("stem, pooling", CLASSIFIERS)
def test_classifier(tmp_path, stem, pooling):
    named = f"{stem}ForImageClassification"
    model = VIT | dict(qkv_bias="qv", layer_scale=0.1, relative_bias="per_block", positions="learned_sincos")
    run = tiny_run(tmp_path / "run", "finetune", model, dict(classes=5, pooling=pooling))
    for done in round_trip(tmp_path, run, "hf", "finetune", named=named):
        assert_compared(done, "block 1", "block 2", "logits")
    loads_silently(tmp_path / "theirs", "AutoModelForImageClassification", named)


@pytest.mark.slow
def test_fixed_positions_are_written_and_known_again(tmp_path):
    model = VIT | dict(qkv_bias="qv", layer_scale=0.1, positions="sincos")
    run = tiny_run(tmp_path / "run", "mae", model, dict(decoder_width=16, decoder_depth=1, decoder_heads=2))
    exported, imported = round_trip(tmp_path, run, "hf", "mae")
    assert exported.form == "BeitModel"
    assert_compared(imported, "block 2", "tokens")


@pytest.mark.parametrize("stem", [pytest.param("Beit", marks=SLOW), "Data2VecVision"])
def test_theirs_with_shared_table_and_mask_token(tmp_path, stem):
    switches = dict(use_mean_pooling=False, use_shared_relative_position_bias=True, use_mask_token=True)
    source = foreign(tmp_path / "theirs", f"{stem}Model", **TINY, **switches)
    imported, _ = there_and_back(tmp_path, source, "simmim", drop="mask_token", overrides=("method.mask_unit=8",))
    assert_compared(imported, "block 1", "block 2", "tokens")


def test_their_head_for_masked_patches(tmp_path):
    switches = dict(use_mask_token=True, use_relative_position_bias=True, vocab_size=11)
    source = foreign(tmp_path / "theirs", "BeitForMaskedImageModeling", **TINY, **switches)
    imported, _ = there_and_back(tmp_path, source, "beit", overrides=SMALL)
    assert imported.form.part == "all"


@pytest.mark.slow
def test_their_head_left_behind(tmp_path):
    source = foreign(tmp_path / "theirs", "BeitForMaskedImageModeling", **TINY, use_mask_token=True)
    encoder = import_run(source, tmp_path / "mae", library="hf", method="mae", say=lambda _: None)
    assert_compared(encoder, "block 2", "tokens")


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [True, False])
def test_their_classifier_without_layer_scale(tmp_path, pooling):
    switches = dict(use_mean_pooling=pooling, use_absolute_position_embeddings=True, layer_scale_init_value=0.0)
    source = foreign(tmp_path / "theirs", "BeitForImageClassification", **TINY, **switches, num_labels=3)
    imported, _ = there_and_back(tmp_path, source, "finetune")
    assert_compared(imported, "block 1", "block 2", "logits")


@pytest.mark.parametrize("stem", ["Beit", pytest.param("Data2VecVision", marks=SLOW)])
def test_their_encoder_without_final_norm_is_one_to_fine_tune(tmp_path, stem):
    source = foreign(tmp_path / "theirs", f"{stem}Model", **TINY, use_shared_relative_position_bias=True)
    done, _ = there_and_back(tmp_path, source, "finetune", drop="pooler")
    assert_compared(done, "block 1", "block 2", "tokens")
    with pytest.raises(DataError, match="without final norm .*does not hold anything of mae"):
        import_run(source, tmp_path / "mae", library="hf", method="mae")
    assert not (tmp_path / "mae").exists()


def test_what_cannot_be_held_is_said(tmp_path):
    source = foreign(
        tmp_path / "two", "BeitModel", **TINY, use_relative_position_bias=True, use_shared_relative_position_bias=True
    )
    with pytest.raises(DataError, match="config.json: use_relative_position_bias and .* are both true"):
        import_run(source, tmp_path / "out", library="hf", method="finetune")
    run = tiny_run(tmp_path / "run", "mae", VIT, dict(decoder_width=16, decoder_depth=1, decoder_heads=2))
    with pytest.raises(ConfigError, match="model.qkv_bias qv"):
        export_run(run, tmp_path / "out", to="hf", named="BeitModel")
    assert not (tmp_path / "out").exists()
