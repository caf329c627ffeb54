"""Named sets of protocols: `mim-jax eval RUN --suite NAME`."""

from __future__ import annotations

from typing import NamedTuple

from mim_jax.errors import ConfigError, nearest


class Suite(NamedTuple):
    """Protocols in the order in which they run, and what the set is for.

    changes: settings of `evaluation` that the set brings; what the command line says goes before them.
    """

    words: str
    protocols: tuple[str, ...]
    changes: tuple[str, ...] = ()


FROZEN = ("knn", "linear", "linear_sweep", "layers", "few_shot", "attentive", "multi_query")
CURVES = ("occlusion", "patch_shuffle", "analysis")

SUITES = {
    "quick": Suite("kNN and the linear probe", ("knn", "linear")),
    "frozen": Suite("every probe of a frozen encoder", FROZEN),
    "standard": Suite("every protocol that needs no data but the run's own", (*FROZEN, "finetune", *CURVES)),
    # The same protocols where one or two CPU cores have to do it: short probes, a tenth of fine-tuning.
    "small": Suite(
        "as standard, with probes and fine-tuning short enough for a laptop",
        (*FROZEN, "finetune", *CURVES),
        (
            "linear.epochs=50",
            "linear.batch_size=1000",
            "linear.lr=6.4",
            "linear.lr_batch=0",
            "linear_sweep.epochs=20",
            "linear_sweep.augment=False",
            "layers.epochs=20",
            "attentive.epochs=10",
            "attentive.warmup_epochs=1",
            "attentive.batch_size=512",
            "attentive.lr=0.1",
            "multi_query.epochs=20",
            "multi_query.warmup_epochs=2",
            "multi_query.batch_size=256",
            "multi_query.lr=10.0",
            "multi_query.lr_batch=0",
            "finetune.epochs=5",
            "finetune.warmup_epochs=1",
            "finetune.batch_size=128",
        ),
    ),
}


def suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in SUITES:
        raise ConfigError(f"'{name}' is not a suite{nearest(name, SUITES)}")
    return SUITES[name]
