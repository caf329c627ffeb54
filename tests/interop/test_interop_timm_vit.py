"""Vision transformers between runs and timm's VisionTransformer and Beit."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
from conversion import VIT, assert_compared, round_trip, tiny_run
from timm_models import foreign, loads_quietly, there_and_back

from mim_jax.errors import ConfigError, DataError
from mim_jax.interop.exporting import export_run
from mim_jax.interop.importing import import_run
from mim_jax.interop.torch_side import module
from mim_jax.training.runs import load_run

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("safetensors", reason="safetensors is not installed (extra 'interop')")

DECODER = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)
SMALL = tuple(f"method.{key}={value}" for key, value in DECODER.items())  # for imports: MAE's own decoder is large
BLOCKS = ("block 1", "block 2")
PLAIN = dict(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2)


@pytest.fixture(autouse=True)
def _timm(torchvision_operators):
    pytest.importorskip("timm", reason="timm is not installed (extra 'interop')")


def test_encoder_of_mae(tmp_path, caplog):
    """Fixed positions are written as a table, and known again."""
    run = tiny_run(tmp_path / "run", "mae", {**VIT, "image_size": (16, 24)}, DECODER)
    for done in round_trip(tmp_path, run, "timm", "mae", overrides=SMALL):
        assert_compared(done, *BLOCKS, "tokens")
    assert load_run(tmp_path / "back").method.model.positions == "sincos"
    model = loads_quietly(tmp_path / "theirs", caplog)
    assert type(model).__name__ == "VisionTransformer" and model.num_classes == 0


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_classifier(tmp_path, caplog, pooling):
    run = tiny_run(tmp_path / "run", "finetune", VIT, dict(classes=5, pooling=pooling))
    exported, _ = round_trip(tmp_path, run, "timm", "finetune")
    assert exported.form == "VisionTransformer" and exported.part == "classifier"
    assert_compared(exported, *BLOCKS, "logits")
    assert loads_quietly(tmp_path / "theirs", caplog).num_classes == 5
    # Their loader gives it a new classifier where somebody asks for other classes.
    other = module("timm").create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True, num_classes=3)
    assert other.head.out_features == 3


def test_switches_of_teachers(tmp_path):
    """Registers, a norm before the blocks, another activation, layer scale; with an epsilon of 1e-5."""
    kind = dict(registers=2, pre_norm=True, patch_bias=False, activation="quick_gelu", layer_scale=0.1)
    run = tiny_run(tmp_path / "run", "mae", {**VIT, **kind, "positions": "learned", "layer_norm_eps": 1e-5}, DECODER)
    for done in round_trip(tmp_path, run, "timm", "mae", overrides=SMALL):
        assert_compared(done, *BLOCKS, "tokens")


def test_gated_perceptrons(tmp_path):
    run = tiny_run(tmp_path / "run", "mae", {**VIT, "mlp": "swiglu", "qkv_bias": "none"}, DECODER)
    for done in round_trip(tmp_path, run, "timm", "mae", overrides=SMALL):
        assert_compared(done, *BLOCKS, "tokens")


def test_encoder_without_class_token(tmp_path):
    sizes = dict(predictor_width=8, predictor_depth=1, predictor_heads=2, target_scale=(0.25, 0.3), min_keep=1)
    run = tiny_run(tmp_path / "run", "ijepa", VIT, sizes)
    small = ("method.min_keep=1", "method.target_scale=0.25,0.3")  # for so small a grid
    exported, _ = round_trip(tmp_path, run, "timm", "ijepa", overrides=small)
    assert_compared(exported, *BLOCKS, "tokens")


def test_encoder_without_a_final_norm(tmp_path):
    """MaskFeat's head has the norm, which stays behind; so has fine-tuning by the mean."""
    run = tiny_run(tmp_path / "run", "maskfeat", VIT, dict(hog_cell=4))
    for done in round_trip(tmp_path, run, "timm", "maskfeat", overrides=("method.hog_cell=4",)):
        assert_compared(done, *BLOCKS, "tokens")


@pytest.mark.parametrize("model", [{}, dict(qkv_bias="qv", relative_bias="per_block", positions="none")])
def test_encoder_tuned_by_the_mean(tmp_path, model):
    """Its norm comes after the mean, and is part of the classifier."""
    run = tiny_run(tmp_path / "run", "finetune", {**VIT, **model}, dict(classes=5))
    done = round_trip(tmp_path, run, "timm", "finetune", part="encoder", overrides=("method.classes=5",))
    for each in done:
        assert_compared(each, *BLOCKS, "tokens")


@pytest.mark.parametrize(
    "name, arguments, changed",
    [
        ("vit_base_patch16_224", dict(num_classes=0), ()),
        ("vit_base_patch16_224", dict(num_classes=0, qkv_bias=False, dynamic_img_size=True, in_chans=2), ()),
        # The class token gets a position of zeros, and registers too.
        ("eva_large_patch14_196", dict(num_classes=0, global_pool="token"), ()),
        ("deit3_base_patch16_224", dict(num_classes=0), ("pos_embed",)),
        ("vit_base_patch14_reg4_dinov2", dict(num_classes=0), ("pos_embed",)),
    ],
)
def test_their_encoders(tmp_path, name, arguments, changed):
    source = foreign(tmp_path / "source", name, **PLAIN, **arguments)
    imported, exported = there_and_back(tmp_path, source, "mae", changed, overrides=SMALL)
    for done in (imported, exported):
        assert_compared(done, *BLOCKS, "tokens")


def test_their_classifiers(tmp_path):
    """A classifier becomes a fine-tuned run, or an encoder of any method without its head."""
    source = foreign(tmp_path / "source", "deit3_base_patch16_224", **PLAIN, num_classes=4)
    imported, exported = there_and_back(tmp_path, source, "finetune", ("pos_embed",))
    assert (imported.form.part, exported.part) == ("classifier", "classifier")
    assert_compared(imported, *BLOCKS, "logits")
    encoder = import_run(source, tmp_path / "encoder", library="timm", method="mae", overrides=SMALL)
    assert encoder.form.part == "encoder"
    assert_compared(encoder, *BLOCKS, "tokens")


def test_bare_file_with_a_name(tmp_path):
    """A file says nothing of heads, so the name of the model must."""
    torch, timm = module("torch"), module("timm")
    state = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=12).state_dict()
    torch.save({"model": state}, tmp_path / "weights.pth")
    with pytest.raises(DataError, match="--model"):
        import_run(tmp_path / "weights.pth", tmp_path / "out", library="timm", method="finetune")
    with pytest.raises(DataError, match="'vit_tinny_patch16_224' is no model of timm.*vit_tiny_patch16_224"):
        import_run(
            tmp_path / "weights.pth", tmp_path / "out", library="timm", method="finetune", model="vit_tinny_patch16_224"
        )
    done = import_run(
        tmp_path / "weights.pth", tmp_path / "out", library="timm", method="finetune", model="vit_tiny_patch16_224"
    )
    assert_compared(done, "block 12", "logits")
    assert load_run(tmp_path / "out").method.model.heads == 3


@pytest.mark.parametrize("lacking, message", [("", ""), ("num_heads", "does not say 'num_heads'.*install timm")])
def test_without_timm(tmp_path, monkeypatch, lacking, message):
    """config.json of an export says all; where it does not, nothing is guessed."""
    run = tiny_run(tmp_path / "run", "finetune", VIT, dict(classes=5, pooling="cls"))
    export_run(run, tmp_path / "theirs", to="timm")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    config["model_args"].pop(lacking, None)
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    monkeypatch.setitem(sys.modules, "timm", None)
    if message:
        with pytest.raises(DataError, match=message):
            import_run(tmp_path / "theirs", tmp_path / "back", library="timm", method="finetune")
        return
    done = import_run(tmp_path / "theirs", tmp_path / "back", library="timm", method="finetune")
    assert "not installed" in done.proof.reason
    before, after = load_run(run), load_run(tmp_path / "back")
    model = {"positions": "learned", "position_antialias": True}
    assert after.method.model == dataclasses.replace(before.method.model, **model)
    np.testing.assert_array_equal(before.variables.params["head"]["kernel"], after.variables.params["head"]["kernel"])


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("vit_base_patch16_224", dict(act_layer="silu"), "layer 'blocks.0.mlp.act' is of the class SiLU|SiLU"),
        ("vit_base_patch16_224", dict(global_pool="max"), "global_pool 'max'"),
        ("vit_base_patch16_224", dict(global_pool="avg", pool_include_prefix=True), "class token into the mean"),
        ("vit_base_patch16_224", dict(qk_norm=True), "nothing of ours takes the array 'blocks.0.attn.k_norm"),
        ("deit_base_distilled_patch16_224", {}, "VisionTransformerDistilled"),
        ("beit_base_patch16_224", dict(swiglu_mlp=True), "SwiGLU"),
    ],
)
def test_refused(tmp_path, name, arguments, message):
    source = foreign(tmp_path / "source", name, **PLAIN, num_classes=3, **arguments)
    with pytest.raises(DataError, match=message):
        import_run(source, tmp_path / "out", library="timm", method="finetune")
    assert not (tmp_path / "out").exists()


def test_runs_that_it_cannot_hold(tmp_path):
    run = tiny_run(tmp_path / "run", "mae", {**VIT, "layer_norm_eps": 1e-12}, DECODER)
    with pytest.raises(ConfigError, match="epsilon of 1e-06 or 1e-05, not 1e-12"):
        export_run(run, tmp_path / "theirs", to="timm")
    assert not (tmp_path / "theirs").exists()
