"""DINOv2 between runs and transformers' classes, with and without registers, with a plain and a gated perceptron."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from conversion import VIT, assert_compared, round_trip, tiny_run
from hf_models import foreign, loads_silently, there_and_back

from mim_jax.errors import ConfigError, DataError
from mim_jax.interop.exporting import export_run
from mim_jax.interop.huggingface import common
from mim_jax.interop.importing import import_run
from mim_jax.interop.source import read_source
from mim_jax.training.runs import load_run

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

TINY = dict(image_size=16, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2)
RUN = VIT | dict(positions="learned", layer_scale=1.0)
DECODER = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)
BLOCKS = ("block 1", "block 2", "tokens")


@pytest.mark.parametrize(
    "switches, name",
    [
        (dict(), "Dinov2Model"),
        (dict(registers=3, position_antialias=True, mlp="swiglu"), "Dinov2WithRegistersModel"),
    ],
)
def test_our_runs_go_there_and_back(tmp_path, switches, name):
    run = tiny_run(tmp_path / "run", "mae", RUN | switches, DECODER)
    exported, imported = round_trip(tmp_path, run, "hf", "mae")
    assert exported.form == name
    assert_compared(exported, *BLOCKS)
    assert_compared(imported, *BLOCKS)
    assert load_run(run).method.model == load_run(tmp_path / "back").method.model
    loads_silently(tmp_path / "theirs", "AutoModel", name)


def test_their_model_comes_and_goes_back(tmp_path):
    sizes = TINY | dict(num_register_tokens=2, use_swiglu_ffn=True, qkv_bias=False, layerscale_value=0.1)
    source = foreign(tmp_path / "theirs", "Dinov2WithRegistersModel", **sizes)
    imported, exported = there_and_back(tmp_path, source, "mae", drop="mask_token")
    assert_compared(imported, *BLOCKS)
    assert_compared(exported, *BLOCKS)


@pytest.mark.parametrize("name", ["Dinov2ForImageClassification", "Dinov2WithRegistersModel"])
def test_images_of_another_size_see_the_positions_that_they_see_there(tmp_path, name):
    """Each class has its own rule; ours follows it, for smaller and for larger grids. A classifier is left behind."""
    source = foreign(tmp_path / "theirs", name, **TINY)
    imported = import_run(source, tmp_path / "run", library="hf", method="mae", say=lambda _: None)
    assert_compared(imported, *BLOCKS)
    run, model = load_run(tmp_path / "run"), common.load(read_source(source), name).base_model
    for size in (8, 28):
        images = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
        expected = common.call(model, images).last_hidden_state.numpy()
        found = run.method.encode(run.variables.params, jnp.asarray(images))
        np.testing.assert_allclose(found.patches, expected[:, -found.patches.shape[1] :], atol=2e-5)
        np.testing.assert_allclose(found.cls, expected[:, 0], atol=2e-5)


def test_what_the_classes_cannot_hold_is_refused(tmp_path):
    plain = tiny_run(tmp_path / "run", "mae", VIT, DECODER)
    with pytest.raises(ConfigError, match="Dinov2Model: it scales every branch"):
        export_run(plain, tmp_path / "out", to="hf", named="Dinov2Model")
    other = tiny_run(tmp_path / "registers", "mae", RUN | dict(registers=2), DECODER)
    with pytest.raises(ConfigError, match="ViTModel: it knows no model.registers"):
        export_run(other, tmp_path / "out", to="hf", named="ViTModel")
    source = foreign(tmp_path / "theirs", "Dinov2Model", **TINY)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"use_swiglu_ffn": True}))
    with pytest.raises(DataError, match="nothing of ours takes the array 'encoder.layer.0.mlp.fc1.bias' of shape"):
        import_run(source, tmp_path / "out", library="hf", method="mae", say=lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_base_with_registers_at_full_size(tmp_path):
    source = foreign(tmp_path / "theirs", "Dinov2WithRegistersModel", noise=0.02, image_size=224, patch_size=14)
    imported, exported = there_and_back(tmp_path, source, "mae", drop="mask_token")
    assert_compared(imported, "block 12", "tokens")
    model = loads_silently(tmp_path / "again", "AutoModel", "Dinov2WithRegistersModel")
    assert imported.parameters == sum(p.numel() for p in model.parameters()) - 768  # its mask token
