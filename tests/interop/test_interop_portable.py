"""Exports that need no library of models: arrays, StableHLO, ONNX."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conversion import VIT, tiny_run

from mim_jax.errors import ConfigError
from mim_jax.interop.exporting import export_run
from mim_jax.training.groups import flat
from mim_jax.training.runs import load_run

SMALL = {
    "mae": ("mae", VIT, dict(decoder_width=16, decoder_depth=1, decoder_heads=2)),
    "swin": (
        "finetune",
        dict(arch="swin", image_size=16, patch_size=2, width=8, depths=(1, 2), heads=(1, 2), window_size=2),
        dict(classes=5),
    ),
    "resnet": (
        "finetune",
        dict(arch="resnet", block="basic", image_size=16, width=(4, 8), depth=(1, 1), stem_width=4, stem_stride=2),
        dict(classes=5),
    ),
    "convnext": (
        "finetune",
        dict(arch="convnext", image_size=16, width=(4, 8), depth=(1, 1), stem_stride=2, layer_scale=0.1),
        dict(classes=5),
    ),
    "spark": (
        "spark",
        dict(arch="resnet", block="basic", image_size=16, width=(4, 8), depth=(1, 1), stem_width=4, stem_stride=2),
        dict(decoder_width=8),
    ),
    "ibot": (
        "ibot",
        VIT,
        dict(head=dict(outputs=8, patch_outputs=8, hidden=8, bottleneck=4), local_crops=1, local_size=(8, 8)),
    ),
}


SMALL["maskfeat"] = ("maskfeat", VIT, dict(hog_cell=2))  # its final norm is a part of its head


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tiny run of a kind, made once."""
    made: dict = {}

    def run(name):
        if name not in made:
            method, model, settings = SMALL[name]
            made[name] = tiny_run(tmp_path_factory.mktemp(name) / "run", method, model, settings)
        return made[name]

    return run


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_arrays_are_those_of_the_run(runs, tmp_path, kind):
    done = export_run(runs("mae"), tmp_path / "out", to=kind)
    assert done.part == "all" and done.proof.rows[0].note.endswith("equal")
    if kind == "npz":
        found = dict(np.load(tmp_path / "out" / "weights.npz"))
    else:
        from safetensors.numpy import load_file

        found = load_file(tmp_path / "out" / "weights.safetensors")
    expected = flat(load_run(runs("mae")).variables.params)
    assert found.keys() == {f"params/{name}" for name in expected}
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[f"params/{name}"], leaf)


def test_the_encoder_alone_has_no_decoder(runs, tmp_path):
    export_run(runs("mae"), tmp_path / "out", to="npz", part="encoder")
    assert {name.split("/")[1] for name in np.load(tmp_path / "out" / "weights.npz")} == {"encoder"}
    export_run(runs("ibot"), tmp_path / "ibot", to="npz", part="encoder")
    names = list(np.load(tmp_path / "ibot" / "weights.npz"))
    assert names and all(name.startswith("extra/teacher/encoder/") for name in names)


@pytest.mark.parametrize("name", ["mae", "ibot", "resnet"])
def test_a_stablehlo_program_serves_any_batch(runs, tmp_path, name):
    from safetensors.flax import load_file

    done = export_run(runs(name), tmp_path / "out", to="saved-jax")
    assert all(row.ok for row in done.proof.rows)
    # As the card says: no code of ours is needed to run it.
    program = jax.export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    images = jnp.asarray(np.random.default_rng(0).normal(size=(5, 16, 16, 3)), jnp.float32)
    found = program.call(load_file(tmp_path / "out" / "weights.safetensors"), images)
    run = load_run(runs(name))
    if name == "resnet":
        expected = run.method.classify(run.variables.params, images, run.variables.extra).logits
    else:
        expected = run.method.encode(run.variables.params, images, extra=run.variables.extra).pooled
    np.testing.assert_allclose(found[-1], expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", list(SMALL))
def test_onnxruntime_says_the_same(runs, tmp_path, name):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    done = export_run(runs(name), tmp_path / "out", to="onnx")
    tokens = ["patches", "pooled"] if name == "spark" else ["cls", "patches", "pooled"]
    outputs = ["logits"] if done.part == "classifier" else tokens
    assert [row.name for row in done.proof.rows] == outputs and all(row.ok for row in done.proof.rows)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    images = np.zeros((5, 16, 16, 3), np.float32)
    assert len(session.run(None, {"images": images})[0]) == 5


def test_the_card_says_how_to_load_it_and_what_it_is(runs, tmp_path):
    folder = runs("mae")
    entry = {"protocol": "knn", "feature": "pooled", "metrics": {"k20": 0.5}, "counts": {"eval": 9}}
    hashes = (load_run(folder).checkpoint_hash, "another")
    (folder / "eval.json").write_text(json.dumps([{**entry, "checkpoint": {"hash": h}} for h in hashes]))
    export_run(folder, tmp_path / "out", to="npz")
    (folder / "eval.json").unlink()
    card = (tmp_path / "out" / "README.md").read_text()
    for words in (load_run(folder).checkpoint_hash, "np.load('weights.npz')", "knn (pooled): k20 0.5; 9 eval", '"mae"'):
        assert words in card
    assert card.count("knn") == 1


def test_what_cannot_be_exported_is_said_in_a_sentence(runs, tmp_path):
    for choice, sentence in (
        (dict(to="hff"), "--to 'hff' is not known; did you mean 'hf'"),
        (dict(to="onnx", part="all"), "needs masks too"),
        (dict(to="saved-jax", part="classifier"), "a run of mae has no classifier; take --part encoder"),
        (dict(to="npz", part="head"), "--part 'head' is not one of encoder, classifier, all"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            export_run(runs("mae"), tmp_path / "out", **choice)
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        export_run(runs("mae"), tmp_path / "there", to="npz")
