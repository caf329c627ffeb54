"""Imported runs: what they are good for, what is refused, what is left behind."""

from __future__ import annotations

import argparse
import json
import pickle

import numpy as np
import pytest
from conversion import VIT, tiny_run
from safetensors.numpy import load_file, save_file

from mim_jax import config as configs
from mim_jax.cli import main
from mim_jax.errors import ConfigError, DataError, MimError
from mim_jax.interop.exporting import choose, export_run, write_foreign
from mim_jax.interop.importing import import_run
from mim_jax.interop.source import read_source
from mim_jax.interop.weights import read_weights
from mim_jax.methods import registry
from mim_jax.nn.patches import resize_patch_kernel
from mim_jax.training import start
from mim_jax.training.groups import flat
from mim_jax.training.runs import load_run

DECODER = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("ours") / "run", "mae", VIT, DECODER)


@pytest.fixture
def folder(run, tmp_path):
    """The run's encoder as transformers has it; written without running their side, which need not be installed."""
    out = tmp_path / "theirs"
    out.mkdir()
    opened = load_run(run)
    write_foreign(out, opened, "hf", choose(opened, "hf"))
    return out


def changed(folder, change):
    """The folder with its arrays changed."""
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")
    return folder


def take(folder, out, **choice):
    return import_run(folder, out, **{"library": "hf", "method": "mae", **choice})


def test_an_imported_run_is_evaluated_and_shown(folder, tmp_path, capsys):
    assert main(["import", str(folder), str(tmp_path / "run"), "--from", "hf", "--method", "mae"]) == 0
    assert "7,392 parameters taken (encoder of ViTModel)" in capsys.readouterr().out
    note = json.loads((tmp_path / "run" / "import.json").read_text())
    assert note["format"] == "ViTModel" and note["source"] == str(folder)
    assert main(["eval", str(tmp_path / "run"), "--knn", "--config.data.source=digits"]) == 0
    assert main(["show", str(tmp_path / "run"), "--source", "digits", "--count", "2"]) == 0
    page = (tmp_path / "run" / "index.html").read_text()
    assert "top-1, k = 20" in page and "Reconstructions" in page  # both commands leave the run's page up to date


def test_training_goes_on_from_an_imported_run_elsewhere(folder, tmp_path, capsys):
    take(folder, tmp_path / "run")
    assert main(["train", f"--config={tmp_path / 'run'}", "--workdir", str(tmp_path / "run")]) == 2
    assert f"--config.training.start_from={tmp_path / 'run'}" in capsys.readouterr().err
    overrides = [f"training.start_from={tmp_path / 'run'}", "training.start_what=all"]
    config = configs.load(str(tmp_path / "run"), overrides)
    method, said = registry.build(config), []
    start.from_config(config, method, said.append).check()
    assert "29 arrays of the encoder taken" in said[0] and "new" not in said[0]


def test_the_same_folder_is_imported_bit_by_bit(run, folder, tmp_path):
    take(folder, tmp_path / "run")
    ours, theirs = (flat(load_run(path).variables.params["encoder"]) for path in (run, tmp_path / "run"))
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name])


def test_images_of_another_size_resize_the_positions(folder, tmp_path):
    arrays = load_file(folder / "model.safetensors")
    arrays["embeddings.position_embeddings"] += 0.1  # no fixed table any more
    save_file(arrays, folder / "model.safetensors")
    said: list[str] = []
    take(folder, tmp_path / "run", overrides=["model.image_size=24,24"], say=said.append)
    assert "positions resized from 4 x 4 to 6 x 6" in said[0]
    opened = load_run(tmp_path / "run")
    assert opened.config.data.views.image.size == (24, 24)
    assert opened.variables.params["encoder"]["pos_embed"].shape == (1, 37, 16)


def test_other_patches_and_channels_are_made_on_request(folder, tmp_path):
    said: list[str] = []
    asked = ["model.patch_size=8", "model.channels=1"]
    with pytest.raises(ConfigError, match="data.mean has 3 values but data.channels is 1"):
        take(folder, tmp_path / "run", overrides=asked, say=said.append)
    assert not (tmp_path / "run").exists()
    take(folder, tmp_path / "run", overrides=[*asked, "data.mean=0.5,", "data.std=0.2,"], say=said.append)
    assert "patch_embed made of 3 channels for 1; patch_embed resized from 4 x 4 to 8 x 8 pixels" in said[-1]
    found = load_run(tmp_path / "run").variables.params["encoder"]["patch_embed"]["proj"]["kernel"]
    kernel = load_file(folder / "model.safetensors")["embeddings.patch_embeddings.projection.weight"]
    grey = np.ascontiguousarray(kernel.sum(axis=1).transpose(1, 2, 0)).reshape(16, -1)
    np.testing.assert_allclose(found, resize_patch_kernel(grey, (4, 4), (8, 8)), atol=1e-6)


def with_nan(arrays):
    arrays["encoder.layer.1.output.dense.bias"][3] = np.nan


def without_one(arrays):
    del arrays["encoder.layer.1.output.dense.bias"]


def with_another(arrays):
    arrays["surplus"] = np.zeros(3, np.float32)


def of_another_shape(arrays):
    arrays["layernorm.weight"] = np.zeros(17, np.float32)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_nan, "'encoder.layer.1.output.dense.bias' holds values that are not finite"),
        (without_one, "'encoder.layer.1.output.dense.weight|hold nothing for 'params/encoder/blocks_1/mlp/fc2/bias'"),
        (with_another, r"nothing of ours takes the array 'surplus' of shape \(3,\)"),
        (of_another_shape, r"'layernorm.weight' gives shape \(17,\) for 'params/encoder/norm/scale', which needs"),
    ],
)
def test_weights_that_are_not_whole_are_refused(folder, tmp_path, change, sentence):
    with pytest.raises(DataError, match=sentence):
        take(changed(folder, change), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_what_does_not_fit_is_said_in_a_sentence(run, folder, tmp_path):
    for choice, sentence in (
        (dict(library="hff"), "'hff' is no library whose weights are known; did you mean 'hf'"),
        (dict(method="mea"), "method.name 'mea' is not a method; did you mean 'mae'"),
        (dict(part="all"), r"is ViTModel \(encoder\), which does not hold the part 'all' of mae"),
        (dict(named="ViTMode"), "--as 'ViTMode' is no format of hf; did you mean 'ViTModel'"),
        (dict(method="spark"), "has an encoder|is not|must be"),
    ):
        with pytest.raises(MimError, match=sentence):
            take(folder, tmp_path / "run", **choice)
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(DataError, match="is in no format of hf that is known"):
        take(folder, tmp_path / "run")
    with pytest.raises(ConfigError, match="is there already"):
        take(folder, run)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_config_of_another_network_is_refused(folder, tmp_path):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "num_hidden_layers": 3}))
    with pytest.raises(DataError, match="the weights hold nothing for 'params/encoder/blocks_2"):
        take(folder, tmp_path / "run")
    (folder / "config.json").write_text(json.dumps({**content, "hidden_act": "relu"}))
    with pytest.raises(DataError, match="hidden_act 'relu' is not supported"):
        take(folder, tmp_path / "run")


def test_damaged_files_are_refused(folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b"", b"\xff" * 100):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(MimError, match=r"model\.safetensors"):
            take(folder, tmp_path / "run")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="holds no weights"):
        take(folder, tmp_path / "run")
    with pytest.raises(DataError, match="does not exist"):
        take(tmp_path / "nowhere", tmp_path / "run")


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch ran",)


def test_no_pickle_is_executed(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"w": Evil()}))
    torch.save({"w": Evil()}, tmp_path / "b.pth")
    np.savez(tmp_path / "c.npz", w=np.array([Evil()], dtype=object))
    for name in ("a.pth", "b.pth", "c.npz"):
        with pytest.raises(MimError, match=name.replace(".", r"\.")):
            read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_training_checkpoints_of_torch_are_unwrapped(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
    state = {"module.a": torch.arange(3.0).bfloat16(), "module.b": torch.arange(2)}
    content = {"model": state, "optimizer": {"state": {0: {"step": torch.ones(())}}}, "epoch": 3}
    torch.save({**content, "args": argparse.Namespace(lr=0.1)}, tmp_path / "checkpoint.pth")
    source = read_source(tmp_path / "checkpoint.pth")
    assert set(source.arrays) == {"model.module.a", "model.module.b"}
    found = source.state()
    np.testing.assert_array_equal(found["a"], np.arange(3, dtype=np.float32))
    assert found["a"].dtype == np.float32 and found["b"].dtype == np.int64


def test_weights_in_several_files(folder, tmp_path):
    arrays = load_file(folder / "model.safetensors")
    names = sorted(arrays)
    parts = {"one.safetensors": names[:9], "two.safetensors": names[9:]}
    for file, some in parts.items():
        save_file({name: arrays[name] for name in some}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_source(folder).arrays.keys() == arrays.keys()
    for bad, sentence in (
        ({names[0]: "../one.safetensors"}, "lies outside its folder"),
        ({"absent": "one.safetensors"}, "names the array 'absent', which none of its files holds"),
    ):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": bad}))
        with pytest.raises(DataError, match=sentence):
            read_source(folder)


def test_bfloat16_of_safetensors_is_read(tmp_path):
    import ml_dtypes

    save_file({"a": np.arange(4).astype(ml_dtypes.bfloat16)}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read_weights(tmp_path / "a.safetensors")["a"], np.arange(4, dtype=np.float32))


def test_sides_that_differ_are_refused_and_nothing_stays(run, tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")
    from mim_jax.interop import exporting

    whole = exporting.write_foreign

    def wrong(folder, *rest):
        whole(folder, *rest)
        changed(folder, lambda arrays: arrays["encoder.layer.1.output.dense.bias"].__iadd__(0.1))

    monkeypatch.setattr(exporting, "write_foreign", wrong)
    with pytest.raises(MimError, match="the two sides differ in 'block 2' .* nothing was written"):
        export_run(run, tmp_path / "out", to="hf")
    assert not list(tmp_path.iterdir())
