"""A whole evaluation on the embedded digits: numbers, files, sentences."""

from __future__ import annotations

import dataclasses
import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from mim_jax import recipes
from mim_jax.cli import main
from mim_jax.errors import CheckpointError, ConfigError, DataError
from mim_jax.evaluation import encoders
from mim_jax.evaluation import run as evaluation
from mim_jax.evaluation.augmented import epoch_features
from mim_jax.evaluation.online import OnlineKNN
from mim_jax.evaluation.protocol import Task
from mim_jax.methods.mae import MAE
from mim_jax.training.runs import Run
from mim_jax.training.sharding import make_mesh


def digits_config():
    config = recipes.pretrain()
    config.data.update(source="digits:train", eval_source="digits:test", channels=1, mean=(0.3,), std=(0.35,))
    config.data.update(eval_resize=16, threads=2)
    config.data.views.image.size = (16, 16)
    config.data.views.image.flip = 0.0
    config.training.evaluate.images = 200
    config.evaluation.linear.update(epochs=3.0, warmup_epochs=1.0, batch_size=256, lr_batch=0, lr=30.0)
    config.evaluation.knn.k = (5, 20)
    return config


@pytest.fixture(scope="module")
def method(build):
    return build(channels=1)[0]


@pytest.fixture(scope="module")
def variables(build):
    return build(channels=1)[1]


@pytest.fixture
def run(tmp_path, monkeypatch, method, variables):
    """Stands for a run directory whose checkpoint at step 12 is asked for."""
    opened = Run(tmp_path, digits_config(), method, variables, 12, "abc")
    fresh = shaken(variables)
    monkeypatch.setattr(Run, "fresh", lambda self: fresh)
    monkeypatch.setattr(evaluation, "load_run", lambda run_dir, step: opened)
    return opened


def test_evaluation_beside_its_baselines(run, capsys):
    knn, linear = evaluation.evaluate(run.workdir, ("knn", "linear"))
    assert json.loads((run.workdir / "eval.json").read_text()) == [knn, linear]
    assert knn["counts"] == linear["counts"] == {"train": 1438, "eval": 359, "classes": 10}
    assert list(knn["metrics"]) == ["top1_k5", "top5_k5", "top1_k20", "top5_k20"]
    assert list(knn["baselines"]) == list(linear["baselines"]) == ["untrained", "pixels"]
    assert knn["checkpoint"] | {"run": ""} == {"run": "", "step": 12, "hash": "abc"}
    assert knn["feature"] == "pooled" and linear["feature"] == "cls"
    assert linear["settings"]["lr"] == 30.0 and knn["settings"]["k"] == [5, 20]
    assert knn["metrics"] != knn["baselines"]["untrained"]
    # Pixels can be had without any of our code: scikit-learn on the source's own arrays.
    assert abs(knn["baselines"]["pixels"]["top1_k5"] - pixel_accuracy(5)) < 1e-6
    printed = capsys.readouterr().out
    for value in (knn["metrics"]["top1_k5"], linear["baselines"]["untrained"]["top1"]):
        assert f"{100 * value:.2f}" in printed
    assert "untrained" in printed and "raw pixels" in printed


def pixel_accuracy(k):
    from mim_jax.data import eval_batches

    splits = []
    for split in ("train", "eval"):
        batch = next(iter(eval_batches(digits_config().data, split=split, batch_size=2000)))
        images = (batch["image"][batch["valid"]] / 255 - 0.3) / 0.35
        splits += [images.reshape(len(images), -1), batch["label"][batch["valid"]]]
    bank, labels, queries, answers = splits
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    return model.fit(bank, labels).score(queries, answers)


def test_a_second_evaluation_is_added_and_says_how_to_repeat_it(run):
    evaluation.evaluate(run.workdir, ("knn",), baselines=False)
    changes = ("evaluation.knn.k=3", "--config.evaluation.knn.temperature=0")
    (entry,) = evaluation.evaluate(run.workdir, ("knn",), baselines=False, source="digits", overrides=changes)
    assert len(json.loads((run.workdir / "eval.json").read_text())) == 2
    assert entry["baselines"] == {} and list(entry["metrics"]) == ["top1_k3", "top5_k3"]
    assert entry["counts"]["train"] == 1797 and entry["data"]["source"] == "digits"
    words = shlex.split(entry["command"])
    assert words[:6] == ["mim-jax", "eval", str(run.workdir), "--knn", "--step", "12"]
    assert "--no-baselines" in words and "--config.evaluation.knn.temperature=0" in words


def test_the_command_of_a_result_gives_it_again(run):
    (first,) = evaluation.evaluate(run.workdir, ("linear",), baselines=False, overrides=("seed=5",))
    assert main(shlex.split(first["command"])[1:]) in (0, None)
    again = json.loads((run.workdir / "eval.json").read_text())[1]
    assert {**again, "time": ""} == {**first, "time": ""}


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"protocols": ("kn",)}, ConfigError, "'kn' is not a protocol; did you mean 'knn'"),
        ({"protocols": ()}, ConfigError, "no protocol was asked for; choose from knn, linear"),
        ({"protocols": ("knn",), "seeds": 0}, ConfigError, "--seeds 0: at least one seed is needed"),
        ({"overrides": ("model.width=3",)}, ConfigError, "config.model.width belongs to the pretraining"),
        ({"overrides": ("evaluation.knn.kk=3",)}, ConfigError, "is not a setting"),
        (
            {"overrides": ("evaluation.knn.temperature=-1",)},
            ConfigError,
            r"^config.evaluation.knn.temperature = -1.0: must be at least 0$",
        ),
        (
            {"overrides": ("evaluation.linear.momentum=1.5",)},
            ConfigError,
            "linear.momentum = 1.5: must be at least 0 and",
        ),
        ({"source": "digit"}, DataError, "digits"),
    ],
)
def test_bad_requests(run, arguments, error, sentence):
    with pytest.raises((error, ConfigError), match=sentence):
        evaluation.evaluate(run.workdir, **arguments)
    assert not (run.workdir / "eval.json").exists()


def shaken(variables):
    """Other weights of the same kind."""
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), variables)


def write_images(folder, classes):
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            Image.fromarray(np.full((16, 16), 40 * number, np.uint8)).save(folder / name / f"{number}.png")
    return f"folder:{folder}"


def test_labels_that_do_not_serve(run, tmp_path):
    flat = write_images(tmp_path / "flat", ["."])
    two, three = write_images(tmp_path / "two", "ab"), write_images(tmp_path / "three", "abc")
    one = write_images(tmp_path / "one", "a")
    for source, eval_source, sentence in (
        (flat, flat, "has no labels"),
        (two, three, "has class 2, which no training image of"),
        (one, one, "a probe needs two"),
    ):
        with pytest.raises(DataError, match=sentence):
            evaluation.evaluate(run.workdir, ("knn",), source=source, eval_source=eval_source)
    assert not (run.workdir / "eval.json").exists()


def test_weights_that_are_not_finite(run, monkeypatch):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, run.variables)
    monkeypatch.setattr(evaluation, "load_run", lambda *_: dataclasses.replace(run, variables=broken))
    with pytest.raises(CheckpointError, match="the pretrained encoder gives NaN or infinite 'pooled' features"):
        evaluation.evaluate(run.workdir, ("knn",))


class WithoutCls(MAE):
    """An encoder that has patch tokens only."""

    def encode(self, params, images, *, extra=None, layers=False):
        return super().encode(params, images, extra=extra, layers=layers).replace(cls=None)


def test_cls_asked_of_an_encoder_without_one(run, monkeypatch):
    bare = dataclasses.replace(run, method=WithoutCls.tiny(channels=1))
    monkeypatch.setattr(evaluation, "load_run", lambda *_: bare)
    with pytest.raises(ConfigError, match="feature 'cls' was asked for, but this encoder has no cls token"):
        evaluation.evaluate(run.workdir, ("linear",))
    (entry,) = evaluation.evaluate(run.workdir, ("knn",), baselines=False)
    assert entry["feature"] == "pooled"


def test_a_directory_without_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="not a run"):
        evaluation.evaluate(tmp_path)


def test_augmented_features_change_by_epoch_and_repeat_by_seed(method, variables):
    data = digits_config().data
    task = Task(encoders.Encoder("pretrained", variables, method), data, ("pooled",), limit=64)
    first, second, again = (epoch_features(task, ("pooled",), (0.2, 0.5), epoch) for epoch in (0, 1, 0))
    np.testing.assert_array_equal(first.index, task.train.index)
    np.testing.assert_array_equal(first.labels, task.train.labels)
    np.testing.assert_array_equal(first.features["pooled"], again.features["pooled"])
    for other in (second, task.train):
        assert np.abs(first.features["pooled"] - other.features["pooled"]).max() > 1e-3


def test_a_probe_with_augmentation(run):
    changes = ("evaluation.linear.augment=True", "evaluation.linear.epochs=2", "evaluation.linear.warmup_epochs=0")
    (entry,) = evaluation.evaluate(run.workdir, ("linear",), baselines=False, overrides=changes)
    assert entry["settings"]["augment"] is True and 0.1 < entry["metrics"]["top1"] < 1


def test_online_knn_follows_the_variables(method, variables):
    config = digits_config()
    online = OnlineKNN(config, method, make_mesh({"data": 4, "fsdp": 2, "tensor": 1}), every_steps=7)
    task = Task(encoders.Encoder("x", variables, method), config.data, ("pooled",), limit=200)
    expected = evaluation.protocol("knn").from_config(config.evaluation).run(task).metrics["top1_k5"]
    assert online.name == "knn" and online.every_steps == 7
    assert online(variables, 7) == {"knn": expected}
    assert online(shaken(variables), 14) != {"knn": expected}
    assert online(variables, 21) == {"knn": expected}


def test_online_knn_leaves_the_run_alone(method, variables, tmp_path):
    said = []
    config = digits_config()
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    assert OnlineKNN(config, method, mesh, 1, said.append)(jax.tree.map(lambda x: x * jnp.nan, variables), 3) == {}
    config.data.update(source=write_images(tmp_path / "flat", ["."]), eval_source="")
    assert OnlineKNN(config, method, mesh, 1, said.append)(variables, 5) == {}
    assert said[0].startswith("step 3: no kNN accuracy: the trained encoder gives NaN")
    assert "has no labels" in said[1]
