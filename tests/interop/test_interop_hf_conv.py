"""ConvNeXt and ResNet between runs of SparK or fine-tuning and transformers' classes."""

from __future__ import annotations

import pytest
from conversion import assert_compared, round_trip, tiny_run
from hf_models import foreign, loads_silently, there_and_back

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

from mim_jax.errors import DataError  # noqa: E402
from mim_jax.interop.format import formats  # noqa: E402
from mim_jax.interop.importing import import_run  # noqa: E402
from mim_jax.methods.spark import SparK  # noqa: E402
from mim_jax.training.runs import load_run  # noqa: E402

CONV = dict(image_size=(16, 16), width=(8, 16), depth=(1, 2))
RESNET = CONV | dict(arch="resnet", stem_width=8, zero_init=False)
CONVNEXT = CONV | dict(arch="convnext", stem_stride=2)
SMALL = ("method.decoder_width=16",)
MODELS = {
    "ConvNext": CONVNEXT | dict(layer_scale=0.1),
    "ResNet": RESNET | dict(block="bottleneck"),
}


@pytest.mark.parametrize("stem", [pytest.param("ConvNext", marks=pytest.mark.slow), "ResNet"])
def test_encoder_of_spark(tmp_path, stem):
    run = tiny_run(tmp_path / "run", "spark", MODELS[stem], dict(decoder_width=16))
    for done in round_trip(tmp_path, run, "hf", "spark", overrides=SMALL):
        assert_compared(done, "block 1", "block 2", "tokens")
    loads_silently(tmp_path / "theirs", "AutoModel", f"{stem}Model")


@pytest.mark.slow
@pytest.mark.parametrize("stem", MODELS)
def test_classifier(tmp_path, stem):
    other = dict(block="basic") if stem == "ResNet" else dict(layer_scale=0.0, stem_stride=4)
    run = tiny_run(tmp_path / "run", "finetune", MODELS[stem] | other, dict(classes=5))
    for done in round_trip(tmp_path, run, "hf", "finetune"):
        assert_compared(done, "block 1", "block 2", "logits")
    loads_silently(tmp_path / "theirs", "AutoModelForImageClassification", f"{stem}ForImageClassification")


def their_classifier(folder, stem):
    sizes = dict(hidden_sizes=[8, 16], depths=[1, 2], num_labels=3)
    own = dict(embedding_size=8) if stem == "ResNet" else dict(num_stages=2, image_size=32, layer_norm_eps=1e-6)
    source = foreign(folder, f"{stem}ForImageClassification", **sizes, **own)
    # A ResNet's config does not know the size of the images.
    (source / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 32}, "image_mean": [0.1, 0.2, 0.3]}')
    return source


@pytest.mark.parametrize("stem", [pytest.param("ResNet", marks=pytest.mark.slow), "ConvNext"])
def test_their_classifier(tmp_path, stem):
    imported, _ = there_and_back(tmp_path, their_classifier(tmp_path / "theirs", stem), "finetune")
    assert_compared(imported, "block 1", "block 2", "logits")
    assert load_run(tmp_path / "run").config.data.mean == (0.1, 0.2, 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("stem", MODELS)
def test_their_encoder_for_spark(tmp_path, stem):
    source = their_classifier(tmp_path / "theirs", stem)
    run = import_run(source, tmp_path / "run", library="hf", method="spark", overrides=SMALL, say=lambda _: None)
    assert_compared(run, "block 1", "block 2", "tokens")


def test_what_cannot_be_held_is_said(tmp_path):
    sizes = dict(hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8)
    source = foreign(tmp_path / "theirs", "ResNetModel", **sizes, downsample_in_bottleneck=True)
    with pytest.raises(DataError, match="config.json: downsample_in_bottleneck True"):
        import_run(source, tmp_path / "out", library="hf", method="spark")
    form = next(form for form in formats("hf") if form.name == "ResNetModel")
    assert "model.stem_stride" in form.refusal(SparK.from_config(RESNET | dict(stem_stride=2), {}))
    assert not (tmp_path / "out").exists()
