"""Export for detection toolboxes: timm computes the same tokens from it, files are whole, refusals are sentences."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from mim_jax import recipes
from mim_jax.cli import main
from mim_jax.errors import ConfigError
from mim_jax.interop import backbone
from mim_jax.methods.beit import BEiT
from mim_jax.methods.mae import MAE
from mim_jax.methods.simmim import SimMIM
from mim_jax.models.mimdet import mimdet
from mim_jax.training.runs import Run


def run_of(tmp_path, method, **batch):
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch or {"image": jnp.zeros((1, 16, 16, 3))})
    random = np.random.default_rng(3)
    variables = jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.2, s.shape), s.dtype), shapes)
    return Run(tmp_path / "run", recipes.pretrain(), method, variables, 7, "abc")


@pytest.fixture
def mae_run(tmp_path, monkeypatch):
    run = run_of(tmp_path, MAE.tiny())
    monkeypatch.setattr(backbone, "load_run", lambda workdir, step: run)
    return run


def test_timm_computes_the_same_tokens_from_the_export(mae_run, tmp_path, torchvision_operators):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm.models.vision_transformer")
    out = backbone.export_backbone("run", tmp_path / "out", image_size=16)
    theirs = timm.VisionTransformer(
        img_size=16,
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=0,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()
    arrays = {name: torch.from_numpy(array) for name, array in load_file(out / "backbone.safetensors").items()}
    theirs.load_state_dict(arrays)  # strict: nothing missing, nothing left over
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs.forward_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    found = mae_run.method.encode(mae_run.variables.params, jnp.asarray(images))
    assert np.abs(found.patches - wanted[:, 1:]).max() < 1e-5 * np.abs(wanted).max()


def test_the_note_says_what_is_in_the_file(mae_run, tmp_path, capsys, monkeypatch):
    assert main(["export-backbone", "run", str(tmp_path / "out"), "--image-size", "32"]) == 0
    note = json.loads((tmp_path / "out" / "backbone.json").read_text())
    arrays = load_file(tmp_path / "out" / "backbone.safetensors")
    assert note["arrays"] == {name: list(array.shape) for name, array in arrays.items()}
    assert note["arrays"]["pos_embed"] == [1, 1 + 64, 16] and note["encoder"]["depth"] == 2
    assert note["maps"]["p2"] == [1, 32, 32, 256] and note["maps"]["p6"] == [1, 2, 2, 256]
    assert "mask_token" not in arrays
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_mimdet_gets_encoder_and_decoder(mae_run, tmp_path):
    out = backbone.export_backbone("run", tmp_path / "out", design="mimdet", image_size=64)
    note = json.loads((out / "backbone.json").read_text())
    assert note["arrays"]["pos_embed"] == [1, 2501, 16] and note["arrays"]["decoder_pos_embed"] == [1, 2501, 8]
    assert "decoder_blocks.0.attn.qkv.weight" in note["arrays"] and "decoder_embed.weight" in note["arrays"]
    assert note["maps"] == {"c2": [1, 16, 16, 4], "c3": [1, 8, 8, 8], "c4": [1, 4, 4, 8], "c5": [1, 2, 2, 8]}


def test_mimdet_starts_from_mae(mae_run):
    model = mimdet(16, 2, 2, decoder_depth=1, decoder_heads=2, decoder_width=8, canvas=(4, 4))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    fresh = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    params = backbone.mimdet_start(mae_run.method, mae_run.variables.params, fresh)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, fresh)
    np.testing.assert_array_equal(
        params["decoder"]["blocks_0"]["mlp"]["fc1"]["kernel"],
        mae_run.variables.params["decoder"]["blocks_0"]["mlp"]["fc1"]["kernel"],
    )
    assert not np.any(params["stem"]["conv_0"]["kernel"]) and np.any(params["pos_embed"])


def test_encoders_of_beit_s_family_have_their_names(tmp_path, monkeypatch):
    method = BEiT.tiny()
    views = {name: jnp.zeros(shape.array(1)) for name, shape in method.views().items()}
    run = run_of(tmp_path, method, **views)
    arrays = backbone.vitdet_arrays(run, 16)
    assert {"blocks.0.attn.q_bias", "blocks.0.gamma_1", "cls_token"} <= set(arrays)
    with pytest.raises(ConfigError, match="mimdet needs a run of mae"):
        backbone.mimdet_arrays(run)


def test_refusals_leave_nothing_behind(mae_run, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no multiple of the patch 4 x 4"):
        backbone.export_backbone("run", tmp_path / "out", image_size=30)
    with pytest.raises(ConfigError, match="did you mean 'mimdet'"):
        backbone.export_backbone("run", tmp_path / "out", design="mimdt")
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        backbone.export_backbone("run", tmp_path / "there")
    monkeypatch.setattr(backbone.json, "dumps", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backbone.export_backbone("run", tmp_path / "out", image_size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    swin = dataclasses.replace(mae_run, method=SimMIM.tiny(arch="swin"))
    monkeypatch.setattr(backbone, "load_run", lambda workdir, step: swin)
    with pytest.raises(ConfigError, match="plain vision transformers"):
        backbone.export_backbone("run", tmp_path / "out")
    with pytest.raises(ConfigError, match="toolboxes build no backbone with model.registers"):
        backbone.vitdet_arrays(dataclasses.replace(mae_run, method=MAE.tiny(registers=2)), 16)
