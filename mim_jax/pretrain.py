"""`mim-jax train`: the loop, the data and the evaluators of a config, put together."""

from __future__ import annotations

from pathlib import Path

import jax
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax.data.check import check as check_data
from mim_jax.data.ordered import eval_batches
from mim_jax.data.train import TrainBatches, train_batches
from mim_jax.errors import ConfigError
from mim_jax.evaluation.online import OnlineKNN
from mim_jax.methods import registry
from mim_jax.methods.base import Method
from mim_jax.report.online import Reconstructions
from mim_jax.report.page import write_page
from mim_jax.training.loop import train
from mim_jax.training.optimizer import check as check_optimizer
from mim_jax.training.resolve import plan
from mim_jax.training.sharding import make_mesh
from mim_jax.training.validation import ValidationLoss


def check_all(config: ConfigDict) -> Method:
    """Refuses, before anything is compiled or opened, a config that cannot run; returns its method.

    Raises:
        ConfigError: the key, its value and the nearest valid one.
    """
    configs.check(config)
    check_data(config.data)
    check_optimizer(config.optimizer, epochs=config.training.epochs, batch_size=config.training.batch_size)
    method = registry.build(config)
    model = getattr(method, "model", None)
    view = config.data.views.get("image")
    if model is not None and view is not None:
        for key, have, need in (
            ("data.views.image.size", tuple(view.size), tuple(model.image_size)),
            ("data.channels", config.data.channels, model.channels),
        ):
            if have != need:
                raise ConfigError(f"{key} is {have}, but the model is built for {need}; make them equal")
    return method


class TrainData:
    """The training source of a config, as the loop sees it; opened once."""

    def __init__(self, config: ConfigDict, workdir: Path):
        name = "bad_records.txt" if jax.process_count() == 1 else f"bad_records_{jax.process_index()}.txt"
        self._batches = train_batches(
            config.data,
            seed=config.seed,
            batch_size=config.training.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            bad_records=workdir / name,
        )
        self.records = self._batches.records

    def open_at(self, step: int) -> TrainBatches:
        """This process's batches from a step on. There is one stream: opening it anew moves it."""
        self._batches.set_state({"step": step})
        return self._batches


def pretrain(config: ConfigDict, workdir: str | Path) -> bool:
    """Trains a config in `workdir`, continuing what is there; writes the run's page.

    Returns whether the last step was reached; False if a signal stopped the run before.

    Raises:
        MimError: anything that the user can mend, in one sentence.
    """
    method = check_all(config)
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    data = TrainData(config, workdir)

    def evaluators(run, mesh, writers):
        evaluate = config.training.evaluate
        return (
            ValidationLoss(config, method, mesh, run.steps(evaluate.loss_every_epochs), eval_batches),
            OnlineKNN(config, method, mesh, run.steps(evaluate.knn_every_epochs)),
            Reconstructions(config, method, workdir, writers, run.steps(evaluate.pictures_every_epochs)),
        )

    last = train(config, workdir, method, data, evaluators)
    if jax.process_index() == 0:
        write_page(workdir)
    return int(last.step) == plan(config, data.records, make_mesh(config.mesh)).total_steps
