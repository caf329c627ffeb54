"""Pipelines: stages in order, each run where the next one looks for it."""

from __future__ import annotations

import json

import pytest
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax import stages
from mim_jax.errors import ConfigError

SMALL = [
    "model.width=16", "model.depth=1", "model.heads=2", "method.decoder_width=16", "method.decoder_depth=1",
    "method.decoder_heads=2", "training.log_every=1", "training.batch_size=512", "training.epochs=1",
    "optimizer.warmup_epochs=0", "training.tensorboard=False", "training.evaluate.pictures_every_epochs=0",
    "training.evaluate.knn_every_epochs=0", "training.evaluate.loss_every_epochs=0",
]  # fmt: skip


def pipeline(root, **second):
    first = configs.load(str(root / "configs/mae/digits.py"), SMALL)
    changes = {"training.start_from": "stage:first", "seed": "1", **second}
    after = configs.load(
        str(root / "configs/mae/digits.py"), [*SMALL, *(f"{key}={value}" for key, value in changes.items())]
    )
    return ConfigDict({"stages": {"first": first, "second": after}})


def test_stages_run_in_order_and_only_once(root, tmp_path, capsys):
    config = pipeline(root)
    assert stages.train(config, tmp_path)
    assert json.loads((tmp_path / "second" / "config.json").read_text())["training"]["start_from"] == str(
        tmp_path / "first"
    )
    logs = {name: (tmp_path / name / "metrics.jsonl").read_text() for name in ("first", "second")}
    assert "stage 2 of 2, second" in capsys.readouterr().err
    assert stages.train(config, tmp_path)
    said = capsys.readouterr().err
    assert "stage 1 of 2, first: done already" in said and "stage 2 of 2, second: done already" in said
    assert logs == {name: (tmp_path / name / "metrics.jsonl").read_text() for name in ("first", "second")}


def test_a_single_run_is_no_pipeline(root, tmp_path):
    assert stages.train(configs.load(str(root / "configs/mae/digits.py"), SMALL), tmp_path)
    assert (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"training.start_from": "stage:frist"}, "config.stages.second.training.start_from = 'stage:frist' names no"),
        ({"method.mask_ratio": "1.5"}, "stage second: "),
    ],
)
def test_faults_are_said_before_the_first_stage_begins(root, tmp_path, change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        stages.train(pipeline(root, **change), tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        stages.check(pipeline(root, **change))
    assert not list(tmp_path.iterdir())


def test_nothing_stands_beside_stages(root, tmp_path):
    config = pipeline(root)
    config.seed = 3
    with pytest.raises(ConfigError, match=r"config.seed stands beside config.stages"):
        stages.train(config, tmp_path)
    with pytest.raises(ConfigError, match=r"config.stages is empty"):
        stages.train(ConfigDict({"stages": {}}), tmp_path)
