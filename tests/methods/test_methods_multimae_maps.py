"""MultiMAE on images with maps of depth and labels beside them: the published row, in small."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.errors import ConfigError, DataError
from mim_jax.pretrain import check_all, pretrain
from mim_jax.report.show import show_run

SMALL = [
    "model.image_size=(16,16)", "model.patch_size=(8,8)", "model.width=16", "model.depth=1", "model.heads=2",
    "method.decoder_width=16", "method.decoder_depth=1", "method.decoder_heads=2", "method.visible_tokens=4",
    "data.views.image.size=(16,16)", "data.eval_resize=16", "data.threads=2", "training.batch_size=8",
    "training.precision=fp32", "training.log_every=1", "training.tensorboard=False", "optimizer.warmup_epochs=0.5",
    "training.evaluate.knn_every_epochs=0", "training.evaluate.images=8",
]  # fmt: skip
LOOKS = ["training.evaluate.loss_every_epochs=1", "training.evaluate.pictures_every_epochs=1"]


@pytest.fixture(scope="module")
def argument(tmp_path_factory):
    """The argument of the config for 88 images of noise with their maps."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for kind, top, dtype in (
        ("rgb", (18, 20, 3), np.uint8),
        ("depth", (18, 20), np.uint16),
        ("labels", (18, 20), np.uint8),
    ):
        (folder / kind).mkdir()
        for number in range(88):
            array = rng.integers(0, 133 if kind == "labels" else np.iinfo(dtype).max, top)
            Image.fromarray(array.astype(dtype)).save(folder / kind / f"{number}.png")
    return f"epochs=2,source=folder:{folder}/rgb,eval_source=,depth=folder:{folder}/depth,labels=folder:{folder}/labels"


def load(root, argument, changes=()):
    return configs.load(f"{root}/configs/multimae/imagenet1k.py:{argument}", [*SMALL, *changes])


def test_a_run_with_depth_and_labels(root, argument, tmp_path):
    assert pretrain(load(root, argument, LOOKS), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"rgb", "norm_rgb", "depth", "labels"} <= set(lines[0])
    assert all(np.isfinite(line.get("loss", 0.0)) for line in lines) and any("val_loss" in line for line in lines)
    assert list((tmp_path / "run" / "pictures").glob("step_*.png"))
    assert show_run(tmp_path / "run", count=2).exists()


def test_a_run_without_the_maps_is_refused(root, argument, tmp_path):
    config = load(root, argument, ["data.maps.depth.source="])
    check_all(config)  # as the published row is, which knows nobody's folders
    with pytest.raises(DataError, match="data.maps.depth.source is empty; name the data source of the maps"):
        pretrain(config, tmp_path / "run")


def test_what_does_not_fit_is_refused(root, argument):
    with pytest.raises(
        ConfigError, match="arguments depth and labels name the data sources of modalities=maps; give both"
    ):
        load(root, "depth=folder:x")
    check_all(load(root, argument))
    with pytest.raises(
        ConfigError, match=r"data.maps.labels gives maps of 8 x 8, 133 classes, but .* 4 x 4, 133 classes"
    ):
        check_all(load(root, argument, ["data.maps.labels.stride=2"]))
    config = load(root, argument)
    with config.unlocked():
        del config.data.maps["depth"]
    with pytest.raises(ConfigError, match="data.maps has no 'depth', which multimae needs; name its source there"):
        check_all(config)
    held_out = load(root, argument.replace("eval_source=", "eval_source=digits"), LOOKS)
    with pytest.raises(
        ConfigError, match=r"data.maps.depth.eval_source is empty, .* training.evaluate.loss_every_epochs"
    ):
        check_all(held_out)
    other = configs.load(f"{root}/configs/mae/digits.py", [])
    with other.unlocked():
        other.data.maps = {"depth": recipes.map_beside("digits")}
    with pytest.raises(ConfigError, match="data.maps.depth is not used by mae"):
        check_all(other)
