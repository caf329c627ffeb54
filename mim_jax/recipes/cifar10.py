"""What the pretraining configs of CIFAR-10 have in common."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from mim_jax.recipes import evaluation


def on_cifar10(config: ConfigDict, args: Any) -> None:
    """Puts the arguments source, eval_source, epochs, batch_size, precision and lr where they belong, with a warm-up of
    20 epochs or a tenth, a weight decay of 0.05, a rate per 256 images, and the probes' sizes for 32 pixels."""
    config.data.source = args.source
    config.data.eval_source = args.eval_source
    config.training.epochs = args.epochs
    config.training.batch_size = args.batch_size
    config.training.precision = args.precision
    config.optimizer.lr = args.lr
    config.optimizer.lr_batch = 256
    config.optimizer.warmup_epochs = min(20.0, args.epochs / 10)
    config.optimizer.weight_decay = 0.05
    config.evaluation.linear.batch_size = 4096
    config.evaluation.finetune.update(evaluation.finetune_cifar10(precision=args.precision))
