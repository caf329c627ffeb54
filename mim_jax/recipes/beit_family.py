"""What the configs of BEiT's descendants have in common."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from mim_jax.recipes.evaluation import finetune_cifar10


def beit_encoder(**changes: Any) -> dict[str, Any]:
    """The switches of BEiT's encoder for `variant`: one table of relative positions, no bias of the keys."""
    plain = {"positions": "none", "relative_bias": "shared", "qkv_bias": "qv", "layer_scale": 0.1, "init": "beit"}
    return plain | changes


def beit_optimizer(config: ConfigDict, b2: float = 0.999) -> None:
    """BEiT's: AdamW with gradients clipped at 3, and a cosine down to 1e-5. Rate, batch and warm-up are the row's."""
    config.optimizer.update(min_lr=1e-5, b2=b2, weight_decay=0.05, clip_norm=3.0)


def beit_on_cifar10(config: ConfigDict, args: Any, b2: float = 0.999, **finetune: Any) -> None:
    """A rate per 512 images, a warm-up of 10 epochs or a tenth, and the evaluations' sizes for 32 pixels; `finetune`:
    further keys of that evaluation."""
    beit_optimizer(config, b2)
    config.optimizer.lr_batch = 512
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 10)
    config.evaluation.linear.batch_size = 4096
    config.evaluation.finetune.update(finetune_cifar10(precision=args.precision, **finetune))
