"""BEiT's family, Swin transformers and convolutional networks between runs and timm's models."""

from __future__ import annotations

import pytest
from conversion import VIT, assert_compared, round_trip, tiny_run
from timm_models import foreign, loads_quietly, there_and_back

from mim_jax.errors import DataError
from mim_jax.interop.case import read_safetensors
from mim_jax.interop.exporting import export_run
from mim_jax.interop.format import formats
from mim_jax.interop.importing import import_run
from mim_jax.interop.torch_side import module
from mim_jax.methods.finetune import Finetune

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("safetensors", reason="safetensors is not installed (extra 'interop')")

SWIN = dict(image_size=(32, 32), patch_size=(2, 2), width=8, depths=(2, 2), heads=(1, 2), window_size=4)
RESNET = dict(image_size=(32, 64), arch="resnet", width=(8, 8, 8, 8), depth=(1, 1, 1, 1), stem_width=64, stem_stride=4)
CONVNEXT = dict(RESNET, arch="convnext", block="depthwise", layer_scale=0.1)
UNIT = "method.mask_unit=8"  # of SimMIM, on images so small
CELLS = "method.decoder_width=32"


@pytest.fixture(autouse=True)
def _timm(torchvision_operators):
    pytest.importorskip("timm", reason="timm is not installed (extra 'interop')")


@pytest.mark.parametrize(
    "model, pooling",
    [
        (dict(qkv_bias="qv", relative_bias="per_block", layer_scale=0.1, positions="none"), "mean"),
        (dict(qkv_bias="qv", relative_bias="shared", positions="learned"), "cls"),
    ],
)
def test_beit_classifier(tmp_path, caplog, model, pooling):
    run = tiny_run(tmp_path / "run", "finetune", VIT | model, dict(classes=5, pooling=pooling))
    exported, _ = round_trip(tmp_path, run, "timm", "finetune")
    assert exported.form == "Beit"
    assert_compared(exported, "block 1", "block 2", "logits")
    loads_quietly(tmp_path / "theirs", caplog)


def test_beit_encoder_of_simmim(tmp_path):
    """Its mask token stays behind; its table is shared."""
    run = tiny_run(tmp_path / "run", "simmim", VIT, dict(mask_unit=8))
    exported, imported = round_trip(tmp_path, run, "timm", "simmim", overrides=(UNIT,))
    assert exported.form == "Beit"
    assert_compared(imported, "block 1", "block 2", "tokens")


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "beitv2_base_patch16_224"])
def test_their_beit(tmp_path, name):
    sizes = dict(img_size=(16, 24), patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    source = foreign(tmp_path / "source", name, **sizes)
    for done in there_and_back(tmp_path, source, "finetune"):
        assert_compared(done, "block 1", "block 2", "logits")


@pytest.mark.parametrize("arch", ["swin", "swinv2"])
def test_swin_classifier(tmp_path, caplog, arch):
    """Windows as large as the grid of the last stage, moved ones in the first."""
    run = tiny_run(tmp_path / "run", "finetune", {"arch": arch, **SWIN}, dict(classes=5))
    exported, _ = round_trip(tmp_path, run, "timm", "finetune")
    assert exported.form == {"swin": "SwinTransformer", "swinv2": "SwinTransformerV2"}[arch]
    assert_compared(exported, *(f"block {i}" for i in range(1, 5)), "logits")
    loads_quietly(tmp_path / "theirs", caplog)


def test_swin_encoder_of_simmim(tmp_path):
    """On a rectangle."""
    wide = {"arch": "swinv2", **SWIN, "image_size": (32, 48), "window_size": 4, "pretrained_windows": (8, 4)}
    run = tiny_run(tmp_path / "run", "simmim", wide, dict(mask_unit=8))
    for done in round_trip(tmp_path, run, "timm", "simmim", overrides=(UNIT,)):
        assert_compared(done, *(f"block {i}" for i in range(1, 5)), "tokens")


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_their_swin(tmp_path, name):
    sizes = dict(img_size=64, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=8, num_classes=3)
    source = foreign(tmp_path / "source", name, **sizes)
    for done in there_and_back(tmp_path, source, "finetune"):
        assert_compared(done, *(f"block {i}" for i in range(1, 5)), "logits")


@pytest.mark.parametrize(
    "name, sizes, block",
    [
        ("swin_tiny_patch4_window7_224", dict(depths=(2,), num_heads=(2,), window_size=8), "layers.0.blocks.1"),
        ("beit_base_patch16_224", dict(depth=2, num_heads=2), "blocks.1"),
    ],
)
def test_tables_of_old_files(tmp_path, name, sizes, block):
    """They hold what is computed now, which is compared; another table is refused."""
    from safetensors.numpy import save_file

    source = foreign(tmp_path / "source", name, img_size=32, patch_size=2, embed_dim=8, num_classes=2, **sizes)
    arrays = read_safetensors(source / "model.safetensors")
    buffers = dict(module("timm").create_model(f"local-dir:{source}").get_submodule(block).named_buffers())
    index = f"{block}.attn.relative_position_index"
    stored = {f"{block}.{key}": table.numpy() for key, table in buffers.items() if "k_bias" not in key}
    save_file(arrays | stored, source / "model.safetensors")
    done = import_run(source, tmp_path / "out", library="timm", method="finetune")
    assert_compared(done, "block 2", "logits")
    save_file(arrays | {index: stored[index][::-1].copy()}, source / "model.safetensors")
    with pytest.raises(DataError, match="relative_position_index.*is not the fixed table"):
        import_run(source, tmp_path / "other", library="timm", method="finetune")


def test_resnet(tmp_path, caplog):
    """The encoder of SparK with its statistics."""
    run = tiny_run(tmp_path / "run", "spark", RESNET | {"block": "bottleneck"}, dict(decoder_width=32))
    for done in round_trip(tmp_path, run, "timm", "spark", overrides=(CELLS,)):
        assert_compared(done, *(f"block {i}" for i in range(1, 5)), "tokens")
    arrays = read_safetensors(tmp_path / "theirs" / "model.safetensors")
    assert arrays["bn1.num_batches_tracked"].shape == ()
    assert type(loads_quietly(tmp_path / "theirs", caplog)).__name__ == "ResNet"


def test_resnet_classifier(tmp_path):
    run = tiny_run(tmp_path / "run", "finetune", RESNET | {"block": "basic"}, dict(classes=5))
    for done in round_trip(tmp_path, run, "timm", "finetune"):
        assert_compared(done, "block 4", "logits")


def test_convnext(tmp_path, caplog):
    """A classifier, and its encoder, beside which timm keeps a norm."""
    run = tiny_run(tmp_path / "run", "finetune", CONVNEXT, dict(classes=5))
    exported, _ = round_trip(tmp_path, run, "timm", "finetune")
    assert exported.form == "ConvNeXt"
    assert_compared(exported, "block 4", "logits")
    encoder = export_run(run, tmp_path / "encoder", to="timm", part="encoder")
    assert_compared(encoder, *(f"block {i}" for i in range(1, 5)), "tokens")
    assert loads_quietly(tmp_path / "encoder", caplog).num_classes == 0


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("resnet50", dict(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))),
        ("convnext_tiny", dict(depths=(1, 2, 1, 1), dims=(8, 8, 16, 16))),
    ],
)
def test_their_convolutions(tmp_path, name, sizes):
    """Images are of the size that the pretrained weights were made for, which may be any."""
    source = foreign(
        tmp_path / "source", name, **sizes, num_classes=3, pretrained_cfg_overlay={"input_size": (3, 32, 64)}
    )
    for done in there_and_back(tmp_path, source, "finetune"):
        assert_compared(done, *(f"block {i}" for i in range(1, 5)), "logits")
    encoder = import_run(source, tmp_path / "encoder", library="timm", method="finetune", part="encoder")
    assert_compared(encoder, "block 4", "tokens")


@pytest.mark.parametrize(
    "name, sizes, message",
    [
        ("swin_s3_tiny_224", {}, "windows of"),
        ("convnextv2_atto", {}, "GlobalResponseNorm"),
        ("convnext_atto", {}, "conv_mlp"),
        (
            "convnext_tiny_hnf",
            dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)),
            "layer 'head' is of the class ClassifierHead",
        ),
        ("resnet18d", {}, "AvgPool2d"),
    ],
)
def test_refused(tmp_path, name, sizes, message):
    source = foreign(tmp_path / "source", name, num_classes=3, **sizes)
    with pytest.raises(DataError, match=message):
        import_run(source, tmp_path / "out", library="timm", method="finetune")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, model, message",
    [
        ("Beit", VIT, "its keys alone have no bias"),
        ("SwinTransformer", {"arch": "swin", **SWIN, "positions": "learned"}, "has no positions beside"),
        ("SwinTransformer", {"arch": "swin", **SWIN, "image_size": (16, 32), "window_size": 8}, "differently"),
        ("SwinTransformerV2", {"arch": "swin", **SWIN}, "no Swin transformer of version 2"),
        ("ResNet", RESNET | {"block": "basic", "stem_stride": 2}, "stride 2"),
        ("ConvNeXt", CONVNEXT | {"layer_scale": 0.0}, "has a layer scale"),
        ("VisionTransformer", {**VIT, "patch_bias": False}, "has a bias unless"),
        ("Eva", VIT, "its keys have no bias"),
        ("VisionTransformer", {**VIT, "mlp": "swiglu_exact"}, "perceptrons have other widths"),
        ("Beit", {**VIT, "qkv_bias": "qv", "rope": 4}, "knows no model.rope"),
    ],
)
def test_what_they_cannot_hold(name, model, message):
    method = Finetune.from_config(model, dict(classes=5))
    assert all(message in form.unheld(method) for form in formats("timm") if form.name == name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_224",
        "beit_base_patch16_224",
        "swin_base_patch4_window7_224",
        "swinv2_base_window8_256",
        "convnext_base",
        "resnet50",
    ],
)
def test_full_size(tmp_path, name):
    """Every parameter of theirs is one of ours, the loader is strict, the logits agree."""
    source = foreign(tmp_path / "source", name, noise=0.02, num_classes=10)  # as large as their weights
    model = module("timm").create_model(name, num_classes=10)
    imported, exported = there_and_back(tmp_path, source, "finetune")
    assert imported.parameters == sum(parameter.numel() for parameter in model.parameters())
    for done in (imported, exported):
        assert_compared(done, "block 1", "logits")
