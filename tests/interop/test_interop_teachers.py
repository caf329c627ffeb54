"""Encoders that others have published, imported and then frozen as the teachers of CAE v2."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conversion import VIT, tiny_run
from hf_models import TINY, foreign

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.interop import frozen
from mim_jax.interop.huggingface import common
from mim_jax.interop.importing import import_run
from mim_jax.interop.source import read_source
from mim_jax.methods.cae_v2 import CAEv2
from mim_jax.pretrain import pretrain
from mim_jax.training.runs import load_run

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
DINOV2 = {key: value for key, value in TINY.items() if key != "intermediate_size"} | dict(mlp_ratio=2)
TEACHERS = {  # class of theirs: its sizes, the method that it is imported as
    "CLIPVisionModelWithProjection": (TINY | dict(projection_dim=6), "mae"),
    "ViTModel": (TINY, "mae"),  # DINO's class
    "ViTMAEModel": (TINY, "mae"),
    "Dinov2WithRegistersModel": (DINOV2 | dict(num_register_tokens=2), "mae"),
    "ViTForImageClassification": (TINY | dict(num_labels=3), "finetune"),
}


def imported(folder, name, sizes, method, **pixels):
    """A run made of a foreign model with random weights, and the folder of that model."""
    source = foreign(folder / "theirs", name, **sizes)
    statistics = dict(image_mean=MEAN, image_std=STD) | pixels
    (source / "preprocessor_config.json").write_text(json.dumps(statistics))
    import_run(source, folder / "run", library="hf", method=method, say=lambda _: None)
    return source, folder / "run"


def taught_by(run, **changes) -> CAEv2:
    """A tiny CAE v2 with that run as its teacher, as a config that names it would give."""
    config = configs.load_json(run / "config.json")
    teacher = dict(source=str(run), model=config.model.to_dict(), mean=config.data.mean, std=config.data.std) | changes
    teacher["model"].pop("arch", None)
    model = dict(image_size=(16, 16), patch_size=4, width=16, depth=1, heads=2)
    method = dict(teacher=teacher, regressor_depth=1, decoder_width=16, decoder_heads=2, min_block=2)
    return CAEv2.from_config(model, method)


def expected_tokens(source, pixels):
    """What the library's model says about pixels in [0, 1]: every token after the final norm, and the projection."""
    import torch

    model = common.load(read_source(source), common.architecture(read_source(source)))
    images = (pixels - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    if hasattr(model, "visual_projection"):
        states = common.call(model, images).last_hidden_state
        with torch.no_grad():
            return model.visual_projection(model.vision_model.post_layernorm(states)).numpy()
    inputs = {}
    if type(model).__name__.startswith("ViTMAE"):
        model.config.mask_ratio, inputs["noise"] = 0.0, torch.arange(16.0).expand(len(images), -1)
    found = common.call(model.base_model, images, **inputs).last_hidden_state.numpy()
    return np.delete(found, np.arange(1, 1 + getattr(model.config, "num_register_tokens", 0)), axis=1)


@pytest.mark.parametrize("name", TEACHERS)
def test_the_target_is_what_their_model_says(tmp_path, name):
    source, run = imported(tmp_path, name, *TEACHERS[name])
    method = taught_by(run)
    shapes = jax.eval_shape(method.teacher.start, jax.random.key(0))
    read = frozen.read(method, shapes)
    pixels = np.random.default_rng(0).random((2, 16, 16, 3), dtype=np.float32)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(method.teacher.tokens)(read, jnp.asarray(pixels))
    expected = expected_tokens(source, pixels)
    assert found.shape == (2, 17, method.teacher.width) == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.slow
def test_two_steps_of_training_with_clip_as_the_teacher(tmp_path, root):
    sizes = TINY | dict(num_channels=1, projection_dim=6)
    _, run = imported(tmp_path, "CLIPVisionModelWithProjection", sizes, "mae", image_mean=[0.3], image_std=[0.35])
    small = (
        *("model.image_size=16", "model.channels=1", "model.width=16", "model.depth=1", "model.heads=2"),
        *("method.decoder_heads=2", "data.channels=1", "data.mean=0.3,", "data.std=0.35,", "data.eval_resize=16"),
        *("data.views.image.size=16,16", "data.views.teacher.size=16,16", "data.fraction=0.02", "training.epochs=2"),
        *("training.precision=fp32", "training.tensorboard=False", "optimizer.warmup_epochs=0"),
        *(f"training.evaluate.{name}_every_epochs=0" for name in ("pictures", "knn", "loss")),
    )
    given = (
        f"teacher={run},batch_size=16,decoder_width=16,regressor_depth=1,source=digits:train,eval_source=digits:test"
    )
    config = configs.load(f"{root}/configs/cae_v2/cifar10.py:{given}")
    with config.unlocked():
        imported_config = configs.load_json(run / "config.json")
        config.method.teacher.model = imported_config.model
        config.method.teacher.mean, config.method.teacher.std = imported_config.data.mean, imported_config.data.std
    assert pretrain(configs.override(config, small), tmp_path / "student")
    after = load_run(tmp_path / "student")
    assert after.step == 2
    teacher = load_run(run).variables.params["encoder"]
    assert after.variables.frozen["teacher"].keys() == teacher.keys() and "projection" in teacher
    jax.tree.map(np.testing.assert_array_equal, after.variables.frozen["teacher"], teacher)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of ours: MAE's, and fine-tuned ones with either pooling."""
    folder = tmp_path_factory.mktemp("runs")
    decoder = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)
    made = {"mae": tiny_run(folder / "mae", "mae", VIT, decoder)}
    for pooling in ("mean", "cls"):
        made[pooling] = tiny_run(folder / pooling, "finetune", VIT, dict(classes=3, pooling=pooling))
    return made


def test_a_fine_tuned_encoder_teaches_with_the_positions_that_it_has_learned(runs):
    with pytest.raises(ConfigError, match="teacher.model.positions is 'sincos', but .* has 'learned'"):
        frozen.check(taught_by(runs["cls"]))
    model = configs.load_json(runs["cls"] / "config.json").model.to_dict() | {"positions": "learned_sincos"}
    method = taught_by(runs["cls"], model=model)
    read = frozen.read(method, jax.eval_shape(method.teacher.start, jax.random.key(0)))
    own = load_run(runs["cls"]).variables.params["encoder"]
    np.testing.assert_array_equal(read["teacher"]["pos_embed"], own["pos_embed"])


def test_the_projection_may_be_left_out_of_the_target(tmp_path):
    _, run = imported(tmp_path, "CLIPVisionModelWithProjection", *TEACHERS["CLIPVisionModelWithProjection"])
    model = configs.load_json(run / "config.json").model.to_dict() | {"projection": 0}
    method = taught_by(run, model=model)
    read = frozen.read(method, jax.eval_shape(method.teacher.start, jax.random.key(0)))
    assert "projection" not in read["teacher"] and method.teacher.width == 16
    with pytest.raises(ConfigError, match="teacher.outputs 4 would put a random map behind the teacher's own of"):
        taught_by(run, outputs=4)


def test_teachers_that_do_not_fit_are_refused(runs):
    with pytest.raises(ConfigError, match="fine-tuned with method.pooling 'mean', so its encoder has no final norm"):
        learned = configs.load_json(runs["mean"] / "config.json").model.to_dict() | {"positions": "learned"}
        frozen.check(taught_by(runs["mean"], model=learned))
    method = taught_by(runs["mae"])
    frozen.check(method)
    teacher = dataclasses.replace(method.teacher, std=(0.2, 0.3, 0.26))
    with pytest.raises(ConfigError, match=r"teacher.std is \(0.2, 0.3, 0.26\), but the encoder in .* data.std \(0.229"):
        frozen.check(dataclasses.replace(method, teacher=teacher))
    wider = dataclasses.replace(method.teacher.model, activation="quick_gelu")
    with pytest.raises(ConfigError, match="teacher.model.activation is 'quick_gelu', but the encoder in .* has 'gelu'"):
        frozen.check(dataclasses.replace(method, teacher=dataclasses.replace(method.teacher, model=wider)))
