"""Systems that learn from another run: at the small scale that run is made first, by the config named here."""

from __future__ import annotations

from typing import NamedTuple


class Need(NamedTuple):
    """argument: of the config that takes the other run's folder. spec: of the other run."""

    argument: str
    spec: str


MAE = Need("teacher", "configs/mae/cifar10.py")
TOKENIZER = Need("tokenizer", "configs/tokenizer/cifar10.py")
NEEDS = {
    "beit": TOKENIZER,
    "cae": TOKENIZER,
    "cae_v2": MAE,
    "dbot_beit": MAE,
    "dmae": Need("teacher", "configs/mae/cifar10.py:variant=S/4"),
    "eva02": MAE,
    "maskalign": MAE,
    "vqkd": MAE,
    "beitv2": Need("tokenizer", "configs/vqkd/cifar10.py"),
}
