"""What the pretraining configs of CIFAR-10 have in common."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from mim_jax.recipes import evaluation
from mim_jax.recipes.place import place


def on_cifar10(config: ConfigDict, args: Any) -> None:
    """Puts the arguments where they belong (`place`), with a warm-up of 20 epochs or a tenth, a weight decay of 0.05, a
    rate per 256 images, and the probes' sizes for 32 pixels."""
    place(config, args)
    config.optimizer.lr_batch = 256
    config.optimizer.warmup_epochs = min(20.0, args.epochs / 10)
    config.optimizer.weight_decay = 0.05
    config.evaluation.linear.batch_size = 4096
    config.evaluation.finetune.update(evaluation.finetune_cifar10(precision=args.precision))
