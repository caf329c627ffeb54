"""CLIP's vision tower between runs and transformers' classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conversion import VIT, assert_compared, round_trip, tiny_run
from hf_models import TINY, foreign, loads_silently
from safetensors.numpy import load_file

from mim_jax.errors import ConfigError, DataError
from mim_jax.interop.exporting import export_run
from mim_jax.interop.importing import import_run
from mim_jax.training.runs import load_run

pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

RUN = VIT | dict(positions="learned", layer_norm_eps=1e-5, pre_norm=True, patch_bias=False)
DECODER = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)
TEXT = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)


@pytest.mark.parametrize(
    "switches, name",
    [
        (dict(activation="quick_gelu", projection=6), "CLIPVisionModelWithProjection"),
        (dict(activation="gelu"), "CLIPVisionModel"),
    ],
)
def test_our_runs_go_there_and_back(tmp_path, switches, name):
    run = tiny_run(tmp_path / "run", "mae", RUN | switches, DECODER)
    exported, imported = round_trip(tmp_path, run, "hf", "mae")
    assert exported.form == name
    expected = ("block 1", "block 2", "tokens", *(["projected"] if "projection" in switches else []))
    assert_compared(exported, *expected)
    assert_compared(imported, *expected)
    assert load_run(run).method.model == load_run(tmp_path / "back").method.model
    if name == "CLIPVisionModel":
        loads_silently(tmp_path / "theirs", "AutoModel", name)
    else:
        loads_silently(tmp_path / "theirs", name, name)


def test_their_model_comes_and_goes_back(tmp_path):
    name = "CLIPVisionModel"
    source = foreign(tmp_path / "theirs", name, **TINY, hidden_act="gelu")
    imported = import_run(source, tmp_path / "run", library="hf", method="mae", say=lambda _: None)
    assert_compared(imported, "block 2", "tokens")
    exported = export_run(tmp_path / "run", tmp_path / "again", to="hf")
    assert exported.form == name
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "again"))
    assert after.keys() == {f"vision_model.{key}" for key in before}
    for key, array in before.items():
        np.testing.assert_array_equal(array, after[f"vision_model.{key}"], err_msg=key)


def test_the_tower_is_taken_out_of_the_whole_model(tmp_path):
    sizes = dict(text_config=TEXT, vision_config=TINY | dict(layer_norm_eps=1e-5), projection_dim=6)
    source = foreign(tmp_path / "theirs", "CLIPModel", **sizes)
    config = json.loads((source / "config.json").read_text())
    del config["vision_config"]["hidden_act"]  # files of older versions say only what differs from the default
    (source / "config.json").write_text(json.dumps(config))
    imported = import_run(source, tmp_path / "run", library="hf", method="mae", say=lambda _: None)
    assert_compared(imported, "block 2", "tokens", "projected")
    model = load_run(tmp_path / "run").method.model
    assert model.activation == "quick_gelu" and model.projection == 6
    assert export_run(tmp_path / "run", tmp_path / "again", to="hf").form == "CLIPVisionModelWithProjection"


def test_what_cannot_be_is_refused(tmp_path):
    plain = tiny_run(tmp_path / "plain", "mae", VIT, DECODER)
    with pytest.raises(ConfigError, match="CLIPVisionModel: it has a norm before the blocks"):
        export_run(plain, tmp_path / "out", to="hf", named="CLIPVisionModel")
    run = tiny_run(tmp_path / "run", "mae", RUN | dict(activation="quick_gelu"), DECODER)
    for named in ("ViTModel", "Dinov2Model"):
        with pytest.raises(ConfigError, match=f"{named}: it knows no model.activation"):
            export_run(run, tmp_path / "out", to="hf", named=named)
    source = foreign(tmp_path / "theirs", "CLIPVisionModel", **TINY, hidden_act="relu")
    with pytest.raises(DataError, match="config.json: hidden_act 'relu' is not supported, only gelu and quick_gelu"):
        import_run(source, tmp_path / "out", library="hf", method="mae", say=lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_base_at_full_size(tmp_path):
    source = foreign(tmp_path / "theirs", "CLIPVisionModelWithProjection", noise=0.02, patch_size=16)
    imported = import_run(source, tmp_path / "run", library="hf", method="mae", say=lambda _: None)
    assert_compared(imported, "block 12", "tokens", "projected")
    exported = export_run(tmp_path / "run", tmp_path / "again", to="hf")
    assert_compared(exported, "block 12", "tokens", "projected")
    name = "CLIPVisionModelWithProjection"
    model = loads_silently(tmp_path / "again", name, name)
    assert imported.parameters == sum(p.numel() for p in model.parameters())
