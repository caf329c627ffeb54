"""A dense training that is killed goes on from its last checkpoint and ends as one that ran through."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from mim_jax import recipes
from mim_jax.config import override
from mim_jax.data.pair_batches import PairReader, train_crops
from mim_jax.data.pair_views import PairView
from mim_jax.data.pairs import Labels, split_pairs
from mim_jax.errors import CheckpointError
from mim_jax.evaluation.dense import setting, training
from mim_jax.evaluation.dense.kept import Kept
from mim_jax.evaluation.dense.segmentation import Segmentation
from mim_jax.evaluation.encoders import Encoder
from mim_jax.evaluation.protocol import Task
from mim_jax.training.sharding import make_mesh


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """12 images of noise with a map of three classes, of which 10 are learned from."""
    root, random = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for i in range(12):
        Image.fromarray(random.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(random.integers(0, 3, (16, 20), dtype=np.uint8)).save(root / "labels" / f"{i}.png")
    return f"folder:{root}/images?map={root}/labels"


@pytest.fixture
def segment(scenes, build, monkeypatch):
    """segment(folder, dies at step, *changes) -> (numbers, state, sentences, steps that were made)."""
    method, variables = build()
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    step, train = training.train_step, training.train

    def segment(workdir, dies_at, *changes):
        config = recipes.pretrain()
        config.data.update(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), threads=2)
        config.data.views.image.size = (16, 16)
        config.evaluation.segmentation.update(source=scenes, classes=3, warmup_steps=2, lr=0.01, batch_size=4)
        config = override(config, [f"evaluation.segmentation.{change}" for change in changes])
        said, made, states = [], [], []

        def one(*arguments):
            if int(arguments[1].step) + 1 == dies_at:
                raise KeyboardInterrupt
            made.append(dies_at)
            return step(*arguments)

        def all_of_them(*arguments):
            state, loss = train(*arguments)
            states.append(jax.tree.map(np.asarray, state))
            return state, loss

        monkeypatch.setattr(training, "train_step", one)
        monkeypatch.setattr(setting, "train", all_of_them)
        task = Task(Encoder("pretrained", variables, method), config.data, (), say=said.append, mesh=mesh)
        task.workdir = workdir
        return Segmentation.from_config(config.evaluation).run(task), states[0], said, len(made)

    return segment


UPERNET = ("head=upernet", "channels=8", "encoder=finetune", "drop_path_rate=0.2", "layer_decay=0.75", "steps=8")


@pytest.mark.parametrize(
    ("changes", "dies_at", "continued"),
    [
        (UPERNET, 6, 4),  # saved every two steps: 10 pairs in batches of 4
        (("steps=20", "checkpoint_every=0.1"), 20, 19),  # between two steps whose mean loss is reported
    ],
)
def test_a_killed_training_ends_as_one_that_ran_through(segment, tmp_path, changes, dies_at, continued):
    folder = tmp_path / "segmentation" / "pretrained-key"
    whole, wanted, said, steps = segment(None, 0, *changes)
    assert not said and not folder.exists()
    with pytest.raises(KeyboardInterrupt):
        segment(folder, dies_at, *changes)
    numbers, state, said, made = segment(folder, 0, *changes)
    assert said == [f"segmentation, pretrained-key: continuing at step {continued} of {steps}"]
    assert made == steps - continued and dataclasses.asdict(numbers) == dataclasses.asdict(whole)
    jax.tree.map(np.testing.assert_array_equal, state, wanted)
    again, _, _, made = segment(folder, 0, *changes)  # asked for once more: the state is there, the test is made anew
    assert made == 0 and again == whole


def test_where_no_checkpoints_are_wanted_there_are_none(segment, tmp_path):
    segment(tmp_path / "run", 0, "steps=3", "checkpoint_every=0")
    assert not (tmp_path / "run").exists()


def test_few_pairs_do_not_make_many_checkpoints(tmp_path):
    kept = Kept(tmp_path, 1.0, images=36, batch=16, steps=40_000, say=print)
    assert kept.every == 200 and kept.due(400) and kept.due(40_000) and not kept.due(30)
    kept.close()


def test_another_batch_is_refused(tmp_path):
    state = training.State(*(jax.numpy.full((), value) for value in range(4)))
    first = Kept(tmp_path, 1.0, 8, batch=4, steps=2, say=print)
    first.save(2, state, [0.5])
    first.close()
    other = Kept(tmp_path, 1.0, 8, batch=6, steps=2, say=print)
    with pytest.raises(CheckpointError, match="begun with batches of 4 crops, and these devices make it 6"):
        other.restored(state)
    other.close()


def test_crops_go_on_at_any_step(scenes):
    """10 pairs in batches of 4: the batches from step 2 on are those of a reader that began at 0."""
    reader = PairReader(*split_pairs(scenes, "", "train"), Labels(3), 3, 10_000)
    view = PairView((8, 8), 16, 100)
    whole = list(train_crops(reader, view, steps=7, batch_size=4, seed=1, threads=2))
    for start in (2, 6, 7):
        rest = list(train_crops(reader, view, steps=7, start=start, batch_size=4, seed=1, threads=2))
        assert len(rest) == 7 - start
        for found, wanted in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(found["image"], wanted["image"])
            np.testing.assert_array_equal(found["map"], wanted["map"])
