"""A run's own classifier: its numbers from logits in NumPy, the classes it is held against, its sentences."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss, recall_score, top_k_accuracy_score

from mim_jax import recipes
from mim_jax.data.sources import Source
from mim_jax.errors import ConfigError, DataError
from mim_jax.evaluation import classify
from mim_jax.evaluation.classify import Classify
from mim_jax.evaluation.encoders import Encoder
from mim_jax.evaluation.protocol import Task
from mim_jax.methods.finetune import Finetune
from mim_jax.nn.images import normalize
from mim_jax.training.sharding import make_mesh


@pytest.fixture(scope="module")
def classifier():
    method = Finetune.tiny(channels=1)
    shapes = jax.eval_shape(method.init, jax.random.key(0), {"image": jnp.zeros((1, 16, 16, 1))})
    random = np.random.default_rng(3)
    return method, jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.3, s.shape), s.dtype), shapes)


@pytest.fixture
def task(classifier):
    method, variables = classifier
    data = recipes.pretrain().data
    data.update(source="digits:train", eval_source="digits:test", channels=1, mean=(0.3,), std=(0.35,))
    data.update(eval_resize=16, threads=2)
    data.views.image.size = (16, 16)
    made = Task(Encoder("pretrained", variables, method), data, ("pooled",), batch_size=25, limit=90)
    made.said = []
    made.say = made.said.append
    return made


@pytest.mark.parametrize("devices", [1, 8])
def test_numbers_are_those_of_the_logits(task, devices):
    """90 images in batches of 25 on one or eight devices: the last ones are padded."""
    task.mesh = make_mesh({"data": devices, "fsdp": 1, "tensor": 1}, jax.devices()[:devices])
    numbers = Classify().run(task)
    method, params, logits, truth = task.encoder.method, task.encoder.variables.params, [], []
    for batch in task.open(task.data, "eval"):
        images = normalize(jnp.asarray(batch["image"]), (0.3,), (0.35,))
        logits.append(np.asarray(method.classify(params, images).logits)[batch["valid"]])
        truth.append(batch["label"][batch["valid"]])
    logits, truth = np.concatenate(logits).astype(np.float64), np.concatenate(truth)
    best = logits.argmax(1)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    assert numbers.metrics == pytest.approx(
        {
            "top1": (best == truth).mean(),
            "top5": top_k_accuracy_score(truth, logits, k=5, labels=range(10)),
            "loss": log_loss(truth, chances, labels=range(10)),
        },
        rel=1e-4,
    )
    assert numbers.units == {"loss": "1"} and not task.said
    assert numbers.counts == {"eval": 90, "classes": 10, "classes_in_eval": 10}
    np.testing.assert_allclose(
        numbers.details["top1_by_class"], recall_score(truth, best, labels=range(10), average=None, zero_division=0)
    )
    assert numbers.details["images_by_class"] == np.bincount(truth).tolist()
    json.dumps(dataclasses.asdict(numbers))


def test_classes_that_do_not_occur_are_said(task):
    task.limit = 7
    numbers = Classify().run(task)
    shown = numbers.counts["classes_in_eval"]
    assert shown < 10 and f"7 held-out images show {shown} of the classifier's 10 classes" in task.said[0]
    assert numbers.details["top1_by_class"].count(None) == 10 - shown


@dataclasses.dataclass
class Listed(Source):
    """A source of labels alone."""

    given: tuple = ()
    classes: tuple | None = None
    labelled: bool = True

    def __len__(self):
        return len(self.given)

    def __getitem__(self, i):
        raise AssertionError("no image is needed")

    def labels(self):
        return np.asarray(self.given, np.int64)

    def name(self, i):
        return str(i)


def test_names_decide_where_both_sides_have_them(task, monkeypatch, tmp_path):
    """Folders are numbered in the order of their names, which need not be that of the training images."""
    some = Listed(given=(0, 1, 2), classes=("a", "c", "d"))
    monkeypatch.setattr(classify, "known_classes", lambda task: ("d", "c", "b", "a"))
    np.testing.assert_array_equal(Classify().labels(task, some, 4), [3, 1, 0])
    np.testing.assert_array_equal(Classify().labels(task, Listed(given=(0, 3)), 4), range(4))
    (tmp_path / "classes.txt").write_text("c\nd\na\nb\n")
    file = Classify(classes=str(tmp_path / "classes.txt"))
    np.testing.assert_array_equal(file.labels(task, some, 4), [2, 0, 1])
    np.testing.assert_array_equal(file.labels(task, Listed(given=(0, 1)), 4), [0, 1])
    with pytest.raises(DataError, match="has class 'e', which is none of the training images' classes"):
        Classify().labels(task, Listed(given=(0, 1), classes=("a", "e")), 4)
    with pytest.raises(DataError, match="names 4 classes, but the classifier of this run has 5"):
        file.labels(task, some, 5)


def gone(task):
    raise DataError("data source 'folder:gone' does not exist")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (Listed(given=(0, 1, 2)), "digits:test has 3 classes, but the classifier of this run has 4; name images of"),
        (Listed(given=(0, 4)), "has 5 classes, but the classifier of this run has 4"),
        (Listed(given=(0, 1), classes=("a", "b", "c")), "has 3 classes, but the classifier of this run has 4"),
        (Listed(given=(0, -1)), "digits:test has images without labels"),
        (Listed(given=(0, 1), labelled=False), "has images without labels, which this evaluation needs"),
    ],
)
def test_data_that_does_not_serve(task, monkeypatch, source, sentence):
    monkeypatch.setattr(classify, "known_classes", gone)
    with pytest.raises(DataError, match=sentence):
        Classify().labels(task, source, 4)


def test_without_a_classifier_there_is_a_way_on(build, classifier):
    with pytest.raises(ConfigError, match="a run of 'mae' has no classifier .* --finetune.* probe it .*--linear"):
        Classify().features(build()[0])
    assert Classify().features(classifier[0]) == ("pooled",) and not Classify.baselines
    evaluation = recipes.pretrain().evaluation
    assert Classify.from_config(evaluation) == Classify()
    with evaluation.unlocked():
        evaluation.classify.classes = "missing.txt"
    with pytest.raises(ConfigError, match="evaluation.classify.classes: 'missing.txt' cannot be read"):
        Classify.from_config(evaluation)
