"""`mim-jax train`: the loop, the data and the evaluators of a config, put together."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax.data.check import check as check_data
from mim_jax.data.maps import settings_of
from mim_jax.data.ordered import eval_batches
from mim_jax.errors import ConfigError
from mim_jax.evaluation.online import OnlineKNN
from mim_jax.interop import frozen
from mim_jax.methods import registry
from mim_jax.methods.base import Method, ViewShape
from mim_jax.report.online import Reconstructions
from mim_jax.report.refresh import refresh_page
from mim_jax.training import bucket, start
from mim_jax.training.data import TrainData
from mim_jax.training.loop import finished, train
from mim_jax.training.optimizer import check as check_optimizer
from mim_jax.training.runs import IMPORT_NOTE
from mim_jax.training.validation import ValidationLoss
from mim_jax.training.views import Views


def check_all(config: ConfigDict) -> Method:
    """Refuses, before anything is compiled or opened, a config that cannot run; returns its method.

    Raises:
        ConfigError: the key, its value and the nearest valid one.
    """
    configs.check(config)
    check_data(config.data)
    check_optimizer(config.optimizer, epochs=config.training.epochs, batch_size=config.training.batch_size)
    method = registry.build(config)
    check_views(config, method)
    return method


def check_views(config: ConfigDict, method: Method) -> None:
    """Refuses views of the data that are not those that the method asks for.

    Raises:
        ConfigError: the view and the key that differ.
    """
    given, wanted = dict(Views.from_config(config.data).shapes), method.views()
    for name in wanted:
        if name not in given and wanted[name].given:
            raise ConfigError(f"data.maps has no '{name}', which {method.name} needs; name its source there")
        if name not in given:
            raise ConfigError(f"data.views has no '{name}', which {method.name} needs; add one of {wanted[name]}")
    for name, have in given.items():
        if name not in wanted:
            where = "maps" if have.given else "views"
            raise ConfigError(
                f"data.{where}.{name} is not used by {method.name}, whose views are {', '.join(wanted)}; remove it"
            )
        need = wanted[name]
        if need.given:
            _check_map(name, have, need)
            continue
        for key in ("size", "count", "normalize"):
            if getattr(have, key) != getattr(need, key):
                raise ConfigError(
                    f"data.views.{name}.{key} is {getattr(have, key)}, but the model is built for "
                    f"{getattr(need, key)}; make them equal"
                )
        if have.channels != need.channels:
            raise ConfigError(
                f"data.channels is {have.channels}, but the model is built for {need.channels}; make them equal"
            )
    _check_held_out_maps(config)


def _check_map(name: str, have: ViewShape, need: ViewShape) -> None:
    if not have.given:
        raise ConfigError(f"data.views.{name} is a view, but the method wants a map of that name; put it in data.maps")
    if (*have.size, have.channels, have.classes) != (*need.size, need.channels, need.classes):
        raise ConfigError(
            f"data.maps.{name} gives maps of {_of_map(have)}, but method.modalities.{name} is built for "
            f"{_of_map(need)}; make stride and classes equal"
        )


def _check_held_out_maps(config: ConfigDict) -> None:
    """Refuses looks at held-out images whose maps nobody has named; a run would find out hours later."""
    without = [name for name, one in settings_of(config.data) if config.data.eval_source and not one.eval_source]
    looks = [key for key in ("loss_every_epochs", "pictures_every_epochs") if config.training.evaluate[key] > 0]
    if without and looks:
        raise ConfigError(
            f"data.maps.{without[0]}.eval_source is empty, so held-out images have no maps; name it, or set "
            + " and ".join(f"training.evaluate.{key}" for key in looks)
            + " to 0"
        )


def _of_map(shape: ViewShape) -> str:
    what = f"{shape.classes} classes" if shape.classes else f"{shape.channels} channel{'s' * (shape.channels > 1)}"
    return f"{shape.size[0]} x {shape.size[1]}, {what}"


def pretrain(config: ConfigDict, workdir: str | Path) -> bool:
    """Trains a config in `workdir`, a folder or an address such as gs://bucket/run, continuing what is there; writes
    the run's page.

    Returns whether the last step was reached; False if a signal stopped the run before.

    Raises:
        MimError: anything that the user can mend, in one sentence.
    """
    method = check_all(config)
    with bucket.opened(workdir, writer=True) as folder:
        return _train(config, method, folder)


def _train(config: ConfigDict, method: Method, workdir: Path) -> bool:
    if (workdir / IMPORT_NOTE).exists():
        raise ConfigError(
            f"{workdir} holds imported weights, which have no optimizer to go on with; give another --workdir and "
            f"--config.training.start_from={workdir} --config.training.start_what=all"
        )
    begin = start.from_config(config, method)
    if not (workdir / "config.json").exists():  # a run that continues has its own copy of what it began with
        frozen.check(method)
        begin.check()
    workdir.mkdir(parents=True, exist_ok=True)
    data = TrainData(config, workdir)

    def evaluators(run, mesh, writers):
        evaluate = config.training.evaluate
        return (
            ValidationLoss(config, method, mesh, run.steps(evaluate.loss_every_epochs), eval_batches),
            OnlineKNN(config, method, mesh, run.steps(evaluate.knn_every_epochs)),
            Reconstructions(config, method, workdir, writers, run.steps(evaluate.pictures_every_epochs)),
        )

    last = train(config, workdir, method, data, evaluators, partial(frozen.read, method), begin)
    refresh_page(workdir)
    return finished(workdir, last)
