"""Sets that share labels: class maps, restricted choices, ReaL and ImageNet-C on tiny folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mim_jax import recipes
from mim_jax.errors import ConfigError, DataError
from mim_jax.evaluation import encoders
from mim_jax.evaluation.class_maps import class_map, read_classes, read_map, real_labels
from mim_jax.evaluation.head import Head, head_feature
from mim_jax.evaluation.linear import Linear
from mim_jax.evaluation.protocol import Task
from mim_jax.evaluation.robustness import Robustness
from mim_jax.measures.corruptions import ALEXNET
from mim_jax.methods.finetune import Finetune
from mim_jax.methods.ibot import IBOT

NAMES = ("n01", "n02", "n03", "n04")
SIDE = 8


def picture(label, wrong=False):
    """A picture whose class the classifier of these tests reads off its brightness: 40, 100, 160, 220."""
    level = 40 + 60 * ((label + wrong) % len(NAMES))
    return Image.fromarray(np.full((SIDE, SIDE), level, np.uint8))


def folder_of(root, labels, images, wrong=0, form="ILSVRC2012_val_{:08d}.png"):
    """`images` pictures of each of the classes {folder name: label}; the first `wrong` of each look like the next."""
    number = 0
    for name, label in labels.items():
        (root / name).mkdir(parents=True)
        for i in range(images):
            number += 1
            picture(label, i < wrong).save(root / name / form.format(number))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    labels = dict(zip(NAMES, range(4), strict=True))
    folder_of(root / "train", labels, 3)
    folder_of(root / "val", labels, 5, wrong=1)
    folder_of(root / "a", {"n02": 1, "n04": 3}, 4, wrong=2)  # the wrong ones look like classes that are not here
    folder_of(root / "v2", {"0": 0, "3": 3, "2": 2}, 2)
    folder_of(root / "named", {"cat": 2, "dog": 0}, 2)
    return root


@pytest.fixture
def task(data):
    config = recipes.pretrain()
    config.data.update(source=f"folder:{data / 'train'}", eval_source=f"folder:{data / 'val'}", channels=1)
    config.data.update(mean=(0.0,), std=(1.0,), eval_resize=SIDE, threads=1)
    config.data.views.image.size = (SIDE, SIDE)
    config.evaluation.linear.feature = "pooled"
    made = Task(encoders.raw_pixels(), config.data, ("pooled",), batch_size=7, evaluation=config.evaluation)
    # -(mean brightness - level)^2, up to what all classes share, from pixels alone.
    levels = (40 + 60 * np.arange(4)) / 255
    weight = np.tile(2 * levels / SIDE**2, (SIDE**2, 1)).astype(np.float32)
    made.memo["head"] = Head(weight, (-(levels**2)).astype(np.float32), "pixels", "linear probe")
    return made


def protocol(task, **changes):
    with task.evaluation.unlocked():
        task.evaluation.robustness.update(changes)
    return Robustness.from_config(task.evaluation)


def test_the_feature_that_a_classifier_reads():
    """A fine-tuned head reads pooled tokens; iBOT's settings called `head` are no classifier."""
    probe = Linear(feature="cls")
    assert head_feature(IBOT.tiny(), probe) == "cls" and head_feature(Finetune.tiny(), probe) == "pooled"


def test_a_set_with_some_of_the_classes(task, data):
    """As ImageNet-A and -R: the best of the set's own classes counts, unless told otherwise."""
    numbers = protocol(task, sets=(f"a=folder:{data / 'a'}",)).run(task)
    assert numbers.metrics["top1"] == pytest.approx(0.8) and numbers.counts["a"] == 8
    # A wrong n02 has level 160, as near to n02 (100) as to n04 (220): the first. A wrong n04 has level 40: n02.
    assert numbers.metrics["a_top1"] == pytest.approx(6 / 8)
    assert numbers.details["a"] == {"top1_all_classes": 0.5, "classes": 2}
    every = protocol(task, sets=(f"a=folder:{data / 'a'}",), restrict=False).run(task)
    assert every.metrics["a_top1"] == 0.5


def test_numbers_as_folder_names_and_maps(task, data, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"cat": 2, "dog": "n01"}))
    sets = (f"v2=folder:{data / 'v2'}", f"named=folder:{data / 'named'}")
    found = protocol(task, sets=sets, maps=(f"named={tmp_path / 'map.json'}",)).run(task)
    assert found.metrics["v2_top1"] == found.metrics["named_top1"] == 1.0
    with pytest.raises(DataError, match=r"has class 'cat', which is none of the training images' classes"):
        protocol(task, sets=sets, maps=()).run(task)


def test_a_given_list_of_classes_decides(task, data, tmp_path):
    (tmp_path / "classes.txt").write_text("n04 fourth\nn03 third\nn02\nn01\n")
    one = (f"t=folder:{data / 'train'}",)
    assert protocol(task, sets=one).run(task).metrics["t_top1"] == 1
    assert protocol(task, sets=one, classes=str(tmp_path / "classes.txt")).run(task).metrics["t_top1"] == 0
    (tmp_path / "classes.txt").write_text("n01\nn02\n")
    with pytest.raises(DataError, match="names 2 classes, but the classifier has 4"):
        protocol(task, sets=one, classes=str(tmp_path / "classes.txt")).run(task)


def test_reassessed_labels(task, tmp_path):
    """20 images, 5 a class; the first of each class is taken for the next one."""
    rows = [[i // 5] for i in range(20)]
    rows[0] = [0, 1]  # the mistake becomes right
    rows[1] = rows[2] = []  # do not count
    (tmp_path / "real.json").write_text(json.dumps(rows))
    found = protocol(task, real=str(tmp_path / "real.json")).run(task)
    assert found.counts["real"] == 18 and found.metrics["real_top1"] == pytest.approx(15 / 18)
    (tmp_path / "real.json").write_text(json.dumps(rows[:9]))
    with pytest.raises(DataError, match="has no labels for the held-out image 'n02/ILSVRC2012_val_00000010.png'"):
        protocol(task, real=str(tmp_path / "real.json")).run(task)


def test_mean_corruption_error(task, tmp_path):
    labels = dict(zip(NAMES, range(4), strict=True))
    for corruption in ALEXNET:
        for severity in range(1, 6):
            folder_of(tmp_path / corruption / str(severity), labels, 5, wrong=min(severity, 4))
    said = []
    task.say, task.batch_size = said.append, 32
    found = protocol(task, corrupted=str(tmp_path)).run(task)
    errors = np.asarray([0.2, 0.4, 0.6, 0.8, 0.8])
    expected = np.mean([errors.sum() / np.sum(rows) for rows in ALEXNET.values()])
    assert found.metrics["mce"] == pytest.approx(expected) and found.counts["corrupted"] == 15 * 5 * 20
    np.testing.assert_allclose(found.details["corruptions"]["fog"]["error"], errors)
    assert found.metrics["corrupted_top1"] == pytest.approx(1 - errors.mean()) and not said
    for name in set(ALEXNET) - {"fog"}:
        (tmp_path / name).rename(tmp_path / f"no {name}")
    part = protocol(task, corrupted=str(tmp_path)).run(task)
    assert "mce" not in part.metrics and said == [f"robustness: no mCE, because {tmp_path} has 1 of the 15 corruptions"]
    (tmp_path / "fog" / "3").rename(tmp_path / "fog" / "6")
    with pytest.raises(ConfigError, match="fog/3' is missing; a corruption needs severities 1 to 5"):
        protocol(task, corrupted=str(tmp_path))
    with pytest.raises(ConfigError, match="holds none of ImageNet-C's folders"):
        protocol(task, corrupted=str(tmp_path / "fog"))


def test_maps_of_labels():
    assert class_map(None, 3, None, None, "x", 3).tolist() == [0, 1, 2]
    assert class_map(None, 3, None, {"0": 2}, "x", 3).tolist() == [2, 1, 2]
    assert class_map(("10", "2"), 0, ("2", "10"), None, "x", 2).tolist() == [1, 0]  # a class's name goes first
    with pytest.raises(DataError, match="x has class '3', but the classifier has 3 classes"):
        class_map(None, 4, None, None, "x", 3)
    with pytest.raises(DataError, match="its names are not known: set evaluation.robustness.classes"):
        class_map(("cat",), 0, None, None, "x", 3)


def test_bad_files_and_settings_are_refused(task, data, tmp_path):
    with pytest.raises(ConfigError, match="evaluation.robustness names no set"):
        protocol(task)
    with pytest.raises(ConfigError, match="evaluation.robustness.maps names 'r', which is none of"):
        protocol(task, sets=("a=digits",), maps=("r=x.json",))
    with pytest.raises(ConfigError, match="'nowhere.json' cannot be read: No such file"):
        protocol(task, sets=("r=digits",), maps=("r=nowhere.json",))
    bad = tmp_path / "bad.json"
    bad.write_text('{"a": [1]}')
    with pytest.raises(ConfigError, match="must be an object such as"):
        read_map(str(bad), "key")
    with pytest.raises(ConfigError, match="neither a JSON list of class names"):
        read_classes(str(bad), "key")
    bad.write_text('["a", "b", "a"]')
    with pytest.raises(ConfigError, match="names the class 'a' twice"):
        read_classes(str(bad), "key")
    with pytest.raises(ConfigError, match="is not ReaL's layout"):
        real_labels(str(bad), ())
    bad.write_text('{"x.JPEG": [3]}')
    assert real_labels(str(bad), ("n01/x.JPEG",)) == [[3]]
    (data / "flat").mkdir(exist_ok=True)
    picture(0).save(data / "flat" / "0.png")
    with pytest.raises(DataError, match="has images without labels"):
        protocol(task, sets=(f"flat=folder:{data / 'flat'}",), maps=()).run(task)
