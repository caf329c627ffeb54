"""What the configs of iBOT's family have in common."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from mim_jax.recipes import view
from mim_jax.recipes.evaluation import finetune_cifar10

COLOURS = {
    "color_jitter": 0.4,  # brightness and contrast
    "color_jitter_saturation": 0.2,
    "color_jitter_hue": 0.1,
    "color_jitter_probability": 0.8,
    "grayscale": 0.2,
}


def projection_head(
    outputs: int = 8192, hidden: int = 2048, bottleneck: int = 256, train_gain: bool = True
) -> dict[str, Any]:
    """The section `method.head`: one layer of prototypes for class tokens and patches."""
    return {
        "outputs": outputs,
        "patch_outputs": outputs,
        "shared": True,
        "teacher_shared": True,
        "hidden": hidden,
        "bottleneck": bottleneck,
        "activation": "gelu",
        "norm": "none",
        "train_gain": train_gain,
    }


def distillation(warmup_epochs: int = 30) -> dict[str, Any]:
    """The section `method.distillation`, of class tokens and of patches alike."""
    return {
        "cls_weight": 1.0,
        "patch_weight": 1.0,
        "student_temperature": 0.1,
        "temperature_start": 0.04,
        "temperature": 0.07,
        "patch_temperature_start": 0.04,
        "patch_temperature": 0.07,
        "warmup_epochs": warmup_epochs,
        "center_momentum": 0.9,
        "patch_center_momentum": 0.9,
    }


def crops(config: ConfigDict, whole: dict[str, Any], small: dict[str, Any], count: int) -> None:
    """Two whole crops, the second of which is seldom blurred but sometimes solarised, and `count` small ones."""
    config.data.views.image = whole
    config.data.views.image2 = whole | {"blur": 0.1, "solarize": 0.2}
    if count:
        config.data.views.local = small | {"count": count}


def optimizer(config: ConfigDict, lr: float, clip_norm: float = 3.0) -> None:
    """DINO's: rate and weight decay on cosines, each tensor clipped by its own norm, the last layer still at first."""
    config.optimizer.update(
        lr=lr,
        lr_batch=256,
        min_lr=1e-6,
        warmup_epochs=min(10.0, config.training.epochs),
        warmup_inclusive=True,
        b2=0.999,
        weight_decay=0.04,
        weight_decay_end=0.4,
        clip_norm=clip_norm,
        clip="per_tensor",
        freeze_epochs=1.0,
    )


def small_heads(args: Any) -> dict[str, Any]:
    """Both sections on CIFAR-10, for the arguments outputs and epochs of a config file."""
    # At a temperature of 0.07 from the start nothing is learned.
    warmup = int(min(30, max(1, args.epochs / 10)))
    head = projection_head(args.outputs, hidden=512, bottleneck=128, train_gain=False)
    return {"head": head, "distillation": distillation(warmup)}


def on_cifar10(config: ConfigDict, args: Any) -> None:
    """Crops of 32 and 16 pixels, DINO's optimizer in a run that may be short, and probes of the class token."""
    colours = COLOURS | {"blur_radius": (0.1, 0.6)}  # of images a seventh as large as the original's
    whole = view((32, 32)) | colours | {"scale": (0.3, 1.0), "blur": 0.5}
    small = view((16, 16)) | colours | {"scale": (0.1, 0.3), "blur": 0.3}
    crops(config, whole, small, args.local_crops)
    optimizer(config, args.lr)
    config.optimizer.warmup_epochs = min(10.0, args.epochs / 10)
    config.optimizer.freeze_epochs = min(1.0, args.epochs)
    config.evaluation.knn.feature = "cls"
    config.evaluation.linear.batch_size = 4096
    config.evaluation.finetune.update(finetune_cifar10(precision=args.precision, pooling="cls"))
