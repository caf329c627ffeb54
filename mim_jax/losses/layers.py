"""How much each layer of a teacher counts where several are imitated."""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Float

from mim_jax.errors import ConfigError

KINDS = "mean, out, linear_decay, topK or midK with a number K"


def layer_weights(kind: str, layers: int, where: str = "method.layer_weights") -> Float[np.ndarray, "L"]:
    """One weight per layer, the first layer first, summing to 1 (MaskAlign's released code).

    mean: all alike. out: the last alone. linear_decay: layer i of 0, 1, ... in proportion to i. topK: the last K alike.
    midK: layer K alone, from 0.

    Raises:
        ConfigError: another kind, or a layer that is not there.
    """
    found = re.fullmatch(r"mean|out|linear_decay|(top|mid)(\d+)", kind)
    if not found:
        raise ConfigError(f"{where} '{kind}' is not one of {KINDS}")
    which, number = found.group(1), int(found.group(2) or 0)
    last = {"mean": layers, "out": 1, "top": number}.get(which or kind, 0)
    weights = np.arange(layers) if kind == "linear_decay" else np.arange(layers) >= layers - last
    weights = np.arange(layers) == number if which == "mid" else weights
    if not weights.any() or last > layers:
        valid = {"top": f"K is 1 to {layers}", "mid": f"K is 0 to {layers - 1}"}.get(which or kind, "choose mean")
        raise ConfigError(f"{where} '{kind}' names a layer that a teacher of {layers} blocks does not have; {valid}")
    return np.asarray(weights / weights.sum(), np.float32)
