"""Arguments of config files that mean the same everywhere."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

PLACES = {
    "source": "data.source",
    "eval_source": "data.eval_source",
    "workers": "data.workers",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "precision": "training.precision",
    "lr": "optimizer.lr",
}


def place(config: ConfigDict, args: Any) -> None:
    """Puts those arguments of a config file that stand in PLACES into the config; the file may change them after."""
    for name, path in PLACES.items():
        if hasattr(args, name):
            section, key = path.split(".")
            config[section][key] = getattr(args, name)
