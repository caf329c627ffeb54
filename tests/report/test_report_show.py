"""`show` and the pictures during training, with a tiny MAE on the digits and on image files."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mim_jax import recipes
from mim_jax.errors import CheckpointError, ConfigError, DataError
from mim_jax.methods.mae import MAE
from mim_jax.report import online, show
from mim_jax.training.runs import Run


@pytest.fixture(scope="module")
def config():
    config = recipes.pretrain()
    config.method.name = "mae"
    config.data.update(source="digits:train", eval_source="digits:test", channels=1, mean=(0.3,), std=(0.35,))
    config.data.update(eval_resize=16, threads=2)
    config.data.views.image.size = (16, 16)
    return config


@pytest.fixture(scope="module")
def variables():
    method = MAE.tiny(channels=1)
    shapes = jax.eval_shape(method.init, jax.random.key(0), {"image": jnp.zeros((1, 16, 16, 1))})
    random = np.random.default_rng(3)
    return jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.3, s.shape), s.dtype), shapes)


@pytest.fixture
def run(tmp_path, monkeypatch, config, variables):
    """Stands for a run directory whose checkpoint at step 12 is asked for."""
    opened = Run(tmp_path, config, MAE.tiny(channels=1), variables, 12, "abc")
    monkeypatch.setattr(show, "load_run", lambda run_dir, step: opened)
    return opened


def test_the_grid_of_held_out_images(run, capsys):
    path = show.show_run(run.workdir, count=3)
    assert path == run.workdir / "pictures" / "show_00000012.png"
    picture = np.asarray(Image.open(path))
    assert picture.shape[1] == 5 * (128 + 6) + 6  # input, masked, prediction, pasted, error
    printed = capsys.readouterr().out
    assert "true patch statistics were used" in printed
    assert f"3 images, checkpoint at step 12: {path}" in printed


def test_columns_keep_the_order_of_the_method(config, variables):
    images = online.fixed_images(config.data, 2)
    pictures = online.predict(MAE.tiny(channels=1), variables, config.data, images, seed=0)
    assert list(pictures.panels) == ["input", "masked", "prediction", "pasted"]


def test_the_seed_decides_what_is_hidden(run, tmp_path):
    pictures = [
        np.asarray(Image.open(show.show_run(run.workdir, count=2, seed=seed, out=tmp_path / f"{name}.png")))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).any()


def test_image_files_go_through_the_evaluation_transform(run, config, tmp_path):
    grey = np.random.default_rng(0).integers(256, size=(16, 16), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "exact.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).resize((64, 32)).save(tmp_path / "wide.jpg")
    stored = show.from_files([tmp_path / "exact.png", tmp_path / "wide.jpg"], config.data)
    assert stored.shape == (2, 16, 16, 1) and stored.dtype == np.uint8
    np.testing.assert_array_equal(stored[0, ..., 0], grey)
    assert show.show_run(run.workdir, images=[tmp_path / "wide.jpg"], out=tmp_path / "new" / "o.png").is_file()


def test_another_source(run, tmp_path, capsys):
    np.save(tmp_path / "images.npy", np.zeros((2, 16, 16, 1), np.uint8))
    show.show_run(run.workdir, source=f"npy:{tmp_path / 'images.npy'}")
    assert "2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"images": ["a.png"], "source": "digits"}, ConfigError, "not both"),
        ({"count": 0}, ConfigError, "count = 0"),
        ({"out": "picture.jpg"}, ConfigError, "picture.jpg is no .png file"),
        ({"images": ["/nowhere/cat.png"]}, DataError, "/nowhere/cat.png cannot be read: No such file"),
    ],
)
def test_bad_requests(run, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        show.show_run(run.workdir, **arguments)
    assert not (run.workdir / "pictures").exists()


def test_a_file_that_is_no_image_is_named(run, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(DataError, match="notes.png is not an image"):
        show.show_run(run.workdir, images=[tmp_path / "notes.png"])


def test_a_directory_without_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="not a run"):
        show.show_run(tmp_path)


class Written:
    def __init__(self):
        self.images = []

    def write_image(self, step, name, image):
        self.images.append((step, name, image))


def test_pictures_during_training_show_the_same_images_with_the_same_mask(config, variables, tmp_path):
    writers = Written()
    evaluator = online.Reconstructions(config, MAE.tiny(channels=1), tmp_path, writers, every_steps=5)
    assert evaluator.every_steps == 5 and evaluator.name == "pictures"
    other = jax.tree.map(lambda leaf: leaf * 0.5, variables)
    for step, weights in ((5, variables), (10, variables), (15, other)):
        assert evaluator(weights, step) == {}
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["step_00000005.png", "step_00000010.png", "step_00000015.png"]
    first, second, third = (image for _, _, image in writers.images)
    body = slice(60, None)  # below the header, which names the step
    np.testing.assert_array_equal(first[body], second[body])
    assert (first[body] != third[body]).any()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "pictures" / names[0])), first)
    columns = slice(6, 6 + 2 * 134)  # input and masked input do not depend on the weights
    np.testing.assert_array_equal(first[body, columns], third[body, columns])
