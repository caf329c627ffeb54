"""Swin and Swinv2, alone, with SimMIM's head and with a classifier, between runs and transformers' classes."""

from __future__ import annotations

import pytest
from conversion import VIT, assert_compared, round_trip, tiny_run
from hf_models import TINY, foreign, loads_silently, there_and_back

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

from mim_jax.errors import DataError  # noqa: E402
from mim_jax.interop.format import formats  # noqa: E402
from mim_jax.interop.importing import import_run  # noqa: E402
from mim_jax.methods.simmim import SimMIM  # noqa: E402

SWIN = dict(image_size=(32, 32), patch_size=(2, 2), width=16, depths=(2, 1), heads=(1, 2), window_size=4)
THEIRS = dict(image_size=32, patch_size=2, embed_dim=16, depths=[2, 1], num_heads=[1, 2], window_size=4)
SLOW = pytest.mark.slow
STEMS = {"swin": "Swin", "swinv2": "Swinv2"}
LEARNED = dict(positions="learned")
SMALL = dict(mask_unit=8, mask_ratio=0.5)


@pytest.mark.parametrize("arch", [pytest.param("swin", marks=SLOW), "swinv2"])
def test_simmim_with_its_head(tmp_path, arch):
    run = tiny_run(tmp_path / "run", "simmim", SWIN | dict(arch=arch) | (LEARNED if arch == "swin" else {}), SMALL)
    for done in round_trip(tmp_path, run, "hf", "simmim", part="all"):
        assert_compared(done, "block 1", "block 2", "block 3", "reconstruction", "loss")
    loads_silently(tmp_path / "theirs", "AutoModelForMaskedImageModeling", f"{STEMS[arch]}ForMaskedImageModeling")


@pytest.mark.parametrize("arch", [pytest.param("swin", marks=SLOW), "swinv2"])
def test_encoder(tmp_path, arch):
    # Windows of version 2 may be those of another pretraining, and its last stage smaller than they are.
    other = dict(pretrained_windows=(4, 2), window_size=8, image_size=(16, 16)) if arch == "swinv2" else {}
    run = tiny_run(tmp_path / "run", "simmim", SWIN | dict(arch=arch) | other, SMALL)
    small = ("method.mask_unit=8",)
    for done in round_trip(tmp_path, run, "hf", "simmim", part="encoder", overrides=small):
        assert_compared(done, "block 1", "block 2", "block 3", "tokens")
    loads_silently(tmp_path / "theirs", "AutoModel", f"{STEMS[arch]}Model")


@pytest.mark.parametrize("arch", ["swin", pytest.param("swinv2", marks=SLOW)])
def test_classifier(tmp_path, arch):
    run = tiny_run(tmp_path / "run", "finetune", SWIN | dict(arch=arch, qkv_bias=arch == "swin"), dict(classes=5))
    for done in round_trip(tmp_path, run, "hf", "finetune"):
        assert_compared(done, "block 3", "logits")
    loads_silently(tmp_path / "theirs", "AutoModelForImageClassification", f"{STEMS[arch]}ForImageClassification")


@pytest.mark.parametrize("arch", ["swin", pytest.param("swinv2", marks=SLOW)])
def test_theirs_with_a_head(tmp_path, arch):
    source = foreign(tmp_path / "theirs", f"{STEMS[arch]}ForMaskedImageModeling", **THEIRS, encoder_stride=4)
    imported, _ = there_and_back(tmp_path, source, "simmim", overrides=("method.mask_unit=8",))
    assert_compared(imported, "block 3", "reconstruction", "loss")


@pytest.mark.slow
@pytest.mark.parametrize("arch", STEMS)
def test_their_head_left_behind(tmp_path, arch):
    source = foreign(tmp_path / "theirs", f"{STEMS[arch]}ForMaskedImageModeling", **THEIRS, encoder_stride=4)
    done = import_run(source, tmp_path / "tuned", library="hf", method="finetune", say=lambda _: None)
    assert_compared(done, "block 3", "tokens")


def test_plain_vit_with_its_head(tmp_path):
    plain = dict(positions="learned", qkv_bias="full", layer_scale=0.0, relative_bias="none")
    run = tiny_run(tmp_path / "run", "simmim", VIT | plain, SMALL)
    for done in round_trip(tmp_path, run, "hf", "simmim", part="all"):
        assert_compared(done, "block 1", "block 2", "reconstruction", "loss")


@pytest.mark.slow
def test_their_plain_vit_with_its_head(tmp_path):
    source = foreign(tmp_path / "theirs", "ViTForMaskedImageModeling", **TINY, encoder_stride=4)
    there_and_back(tmp_path, source, "simmim", overrides=("method.mask_unit=8",))


def test_what_cannot_be_held_is_said(tmp_path):
    source = foreign(tmp_path / "theirs", "SwinModel", **THEIRS, layer_norm_eps=1e-6)
    with pytest.raises(DataError, match="config.json: layer_norm_eps 1e-06"):
        import_run(source, tmp_path / "out", library="hf", method="simmim")
    head = next(form for form in formats("hf") if form.name == "SwinForMaskedImageModeling")
    second = next(form for form in formats("hf") if form.name == "Swinv2Model")
    for form, model, method, why in (
        (head, {}, dict(target="local_norm"), "raw pixels"),
        (head, dict(patch_norm=False), {}, "patch_norm"),
        (head, dict(window_size=16), {}, "stage 2 is smaller"),
        (head, dict(arch="swinv2"), {}, "the encoder is no Swin"),
        (second, LEARNED | dict(arch="swinv2"), {}, "a row too many"),
    ):
        built = SimMIM.from_config(SWIN | dict(arch="swin") | model, SMALL | method)
        assert why in form.refusal(built)
    assert not (tmp_path / "out").exists()
