"""One small real run for all tests of pages: trained, stopped and continued, judged, drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

SMALL = [
    "model.width=16", "model.depth=1", "model.heads=2", "method.decoder_width=16", "method.decoder_depth=1",
    "method.decoder_heads=2", "training.log_every=1", "training.batch_size=256", "optimizer.warmup_epochs=1",
    "training.tensorboard=False", "training.evaluate.images=64", "training.evaluate.pictures_every_epochs=1",
    "training.evaluate.knn_every_epochs=1", "training.evaluate.loss_every_epochs=1", "training.epochs=2",
]  # fmt: skip


@pytest.fixture(scope="session")
def real_run(root, tmp_path_factory) -> Path:
    from mim_jax import config as configs
    from mim_jax import pretrain
    from mim_jax.evaluation.run import evaluate

    workdir = tmp_path_factory.mktemp("real") / "small"
    spec = str(root / "configs/mae/digits.py")
    pretrain.pretrain(configs.load(spec, SMALL), workdir)
    pretrain.pretrain(configs.load(spec, [*SMALL, "training.epochs=3"]), workdir)
    evaluate(workdir, ("knn",), baselines=False, overrides=("evaluation.limit=64",))
    return workdir
