"""EVA-02's encoders between runs and timm's Eva."""

from __future__ import annotations

import pytest
from conversion import VIT, assert_compared, round_trip, tiny_run
from timm_models import foreign, loads_quietly, there_and_back

from mim_jax.errors import DataError
from mim_jax.interop.importing import import_run
from mim_jax.interop.torch_side import module
from mim_jax.training.runs import load_run

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("safetensors", reason="safetensors is not installed (extra 'interop')")

DECODER = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)
SMALL = tuple(f"method.{key}={value}" for key, value in DECODER.items())  # for imports: MAE's own decoder is large
BLOCKS = ("block 1", "block 2")
PLAIN = dict(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2)
GATED = dict(mlp="swiglu_exact", mlp_ratio=8 / 3, qkv_bias="qv", positions="learned", rope=3)  # 42 units
SWITCHES = {
    "Ti, S": GATED,
    "B, L": GATED | dict(mlp_norm=True),
    "CLIP": GATED | dict(mlp_norm=True, attention_norm=True, layer_scale=0.1),
    "others": dict(qkv_bias="none", mlp_norm=True, rope=5, positions="none", cls_token=False),
}


@pytest.fixture(autouse=True)
def _timm(torchvision_operators):
    pytest.importorskip("timm", reason="timm is not installed (extra 'interop')")


@pytest.mark.parametrize("name", ["CLIP", "others"])
def test_encoder_of_mae(tmp_path, caplog, name):
    """On a rectangle, whose sides count in units of the same grid."""
    run = tiny_run(tmp_path / "run", "mae", {**VIT, "image_size": (16, 24), **SWITCHES[name]}, DECODER)
    for done in round_trip(tmp_path, run, "timm", "mae", named="Eva", overrides=SMALL):
        assert_compared(done, *BLOCKS, "tokens")
    model = loads_quietly(tmp_path / "theirs", caplog)
    assert type(model).__name__ == "Eva" and model.num_classes == 0
    before, after = (load_run(tmp_path / name).method.model for name in ("run", "back"))
    assert after.special == before.special and (after.rope, after.mlp) == (before.rope, before.mlp)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_classifier(tmp_path, caplog, pooling):
    model = VIT | SWITCHES["B, L" if pooling == "mean" else "Ti, S"]
    run = tiny_run(tmp_path / "run", "finetune", model, dict(classes=5, pooling=pooling))
    exported, _ = round_trip(tmp_path, run, "timm", "finetune")
    assert (exported.form, exported.part) == ("Eva", "classifier")
    assert_compared(exported, *BLOCKS, "logits")
    assert loads_quietly(tmp_path / "theirs", caplog).num_classes == 5


def test_encoder_tuned_by_the_mean(tmp_path):
    run = tiny_run(tmp_path / "run", "finetune", VIT | SWITCHES["B, L"], dict(classes=5))
    for done in round_trip(tmp_path, run, "timm", "finetune", part="encoder", overrides=("method.classes=5",)):
        assert_compared(done, *BLOCKS, "tokens")


@pytest.mark.parametrize(
    "name", ["eva02_tiny_patch14_224", "eva02_base_patch14_224", "eva02_base_patch16_clip_224", "eva_giant_patch14_224"]
)
def test_their_classifiers(tmp_path, name):
    """Grids of 5 x 5 in units of 16 x 16 where there are rotary positions."""
    source = foreign(tmp_path / "source", name, **{**PLAIN, "img_size": 20, "mlp_ratio": 8 / 3}, num_classes=3)
    imported, exported = there_and_back(tmp_path, source, "finetune")
    for done in (imported, exported):
        assert_compared(done, *BLOCKS, "logits")
    opened = load_run(tmp_path / "run")
    assert opened.method.model.rope == (0 if "giant" in name else 16)
    assert opened.config.data.mean[0] == pytest.approx(0.48145466)  # CLIP's statistics


def test_their_pretrained_encoders(tmp_path):
    """The final norm of pretraining lies where a classifier's would be; any method has it, tuning by the mean not."""
    source = foreign(tmp_path / "source", "eva02_base_patch14_224", **PLAIN, num_classes=0)
    done = import_run(source, tmp_path / "mae", library="timm", method="mae", overrides=SMALL)
    assert_compared(done, *BLOCKS, "normed tokens")
    done = import_run(
        source, tmp_path / "tuned", library="timm", method="finetune", overrides=("method.classes=5",), part="encoder"
    )
    assert_compared(done, *BLOCKS)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("eva02_enormous_patch14_clip_224", {}, "layer 'blocks.0' is of the class EvaBlockPostNorm"),
        ("eva02_base_patch14_224", dict(rope_type="dinov3"), "RotaryEmbeddingDinoV3"),
        ("eva02_base_patch14_224", dict(rope_temperature=100.0), "rotary positions of another kind"),
        ("eva02_base_patch14_224", dict(ref_feat_shape=(4, 8)), "rotary positions of another kind"),
        ("eva02_base_patch14_224", dict(attn_type="rope"), "AttentionRope"),
        ("eva02_base_patch14_224", dict(qk_norm=True), "nothing of ours takes the array 'blocks.0.attn.k_norm"),
        ("eva02_base_patch14_224", dict(num_reg_tokens=2), "has registers"),
        ("eva_giant_patch14_clip_224", dict(global_pool="map"), "AttentionPoolLatent|global_pool 'map'"),
    ],
)
def test_refused(tmp_path, name, arguments, message):
    source = foreign(tmp_path / "source", name, **PLAIN, num_classes=3, **arguments)
    with pytest.raises(DataError, match=message):
        import_run(source, tmp_path / "out", library="timm", method="finetune")
    assert not (tmp_path / "out").exists()


MOVED = dict.fromkeys(("norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias"), "the final norm's new place")


@pytest.mark.slow
def test_full_size(tmp_path):
    """Every parameter of theirs is one of ours, the loader is strict, the tokens agree."""
    source = foreign(tmp_path / "source", "eva02_base_patch14_224", noise=0.02, num_classes=0)
    model = module("timm").create_model("eva02_base_patch14_224", num_classes=0)
    imported, exported = there_and_back(tmp_path, source, "mae", MOVED, overrides=SMALL)
    theirs = sum(parameter.numel() for parameter in model.parameters())
    assert imported.parameters == theirs == 85_758_720
    assert_compared(imported, "block 12", "normed tokens")
    assert_compared(exported, "block 12", "tokens")
