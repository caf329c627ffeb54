"""How ConvMAE and DMJD judge the encoder that they share."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

# Of DMJD's code; ConvMAE's has no large model. The base model is fine-tuned and probed as MAE's.
LARGE: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 50.0, "layer_decay": 0.75, "drop_path_rate": 0.2},
    "linear": {"epochs": 50.0, "lr": 0.05},
}


def judged_conv_vit(config: ConfigDict, size: str) -> None:
    """Puts the released recipes of fine-tuning and linear probe into a config; size: 'B' or 'L'."""
    config.evaluation.linear.update(feature="pooled", batch_size=4096)
    for protocol, changes in LARGE.items() if size == "L" else ():
        config.evaluation[protocol].update(changes)
