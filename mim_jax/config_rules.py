"""Ranges of the settings whose range is not their type, by dotted key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MESH_AXES = ("data", "fsdp", "tensor")

Rule = tuple[Callable[[Any], bool], str]


def at_least(low: float) -> Rule:
    return lambda v: v >= low, f"at least {low:g}"


def above(low: float) -> Rule:
    return lambda v: v > low, f"above {low:g}"


def within(low: float, high: float) -> Rule:
    return lambda v: low <= v <= high, f"from {low:g} to {high:g}"


def below_one() -> Rule:
    return lambda v: 0 <= v < 1, "at least 0 and below 1"


def one_of(*names: str) -> Rule:
    return lambda v: v in names, f"one of {', '.join(names)}"


def all_of(rule: Rule) -> Rule:
    return lambda v: len(v) > 0 and all(rule[0](x) for x in v), f"one or more values, each {rule[1]}"


def rising() -> Rule:
    def holds(values: Any) -> bool:
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in values)
        return numbers and list(values) == sorted(set(values))

    return holds, "none or more numbers of at least 0 in rising order, such as (700,)"


def span(low: float, high: float) -> Rule:
    return lambda v: len(v) == 2 and low < v[0] <= v[1] <= high, f"two values (low, high) above {low:g}, up to {high:g}"


def pair_of_sizes() -> Rule:
    return lambda v: len(v) == 2 and all(isinstance(x, int) and x >= 0 for x in v), "(height, width), 0 for the default"


RULES: dict[str, Rule] = {
    "seed": at_least(0),
    "data.source": (lambda v: bool(v.strip()), "the name of a data source, such as digits or folder:DIR"),
    "data.fraction": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "data.per_class": at_least(0),
    "data.subset_seed": at_least(0),
    "data.channels": at_least(1),
    "data.eval_resize": at_least(1),
    "data.workers": at_least(0),
    "data.threads": at_least(1),
    "data.prefetch": at_least(1),
    "data.on_error": one_of("stop", "skip"),
    "data.max_bad_fraction": within(0, 1),
    "data.max_pixels": at_least(1),
    "optimizer.name": one_of("adamw", "lamb", "lars", "sgd"),
    "optimizer.lr": at_least(0),
    "optimizer.lr_batch": at_least(0),
    "optimizer.min_lr": at_least(0),
    "optimizer.warmup_epochs": at_least(0),
    "optimizer.warmup_lr": at_least(0),
    "optimizer.schedule": one_of("cosine", "cosine_whole", "step"),
    "optimizer.decay_epochs": rising(),
    "optimizer.decay_factor": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "optimizer.schedule_stretch": above(0),
    "optimizer.freeze_epochs": at_least(0),
    "optimizer.clip": one_of("global", "per_tensor"),
    "optimizer.weight_decay_end": (lambda v: True, "a finite number; negative for none"),
    "optimizer.b1": below_one(),
    "optimizer.b2": below_one(),
    "optimizer.eps": above(0),
    "optimizer.momentum": below_one(),
    "optimizer.trust_coefficient": above(0),
    "optimizer.weight_decay": at_least(0),
    "optimizer.layer_decay": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "optimizer.clip_norm": at_least(0),
    "optimizer.ema": below_one(),
    "training.start_what": one_of("encoder", "all"),
    "training.epochs": above(0),
    "training.batch_size": at_least(1),
    "training.accumulate": at_least(1),
    "training.precision": one_of("bf16", "fp32"),
    "training.log_every": at_least(1),
    "training.on_nonfinite": one_of("stop", "skip"),
    "training.max_skipped": at_least(1),
    "training.on_spike": one_of("off", "rewind"),
    "training.spike.factor": above(1),
    "training.spike.window": at_least(2),
    "training.spike.leave_out": at_least(1),
    "training.spike.most": at_least(1),
    "training.checkpoint.every_epochs": at_least(0),
    "training.checkpoint.every_minutes": at_least(0),
    "training.checkpoint.keep": at_least(1),
    "training.checkpoint.metric": one_of("knn", "val_loss"),
    "training.evaluate.loss_every_epochs": at_least(0),
    "training.evaluate.knn_every_epochs": at_least(0),
    "training.evaluate.pictures_every_epochs": at_least(0),
    "training.evaluate.images": at_least(1),
}

EVALUATION: dict[str, Rule] = {
    "evaluation.limit": at_least(0),
    "evaluation.knn.k": all_of(at_least(1)),
    "evaluation.knn.temperature": at_least(0),
    "evaluation.knn.batch_size": at_least(1),
    "evaluation.linear.scale": span(0, 1),
    "evaluation.linear.trust_coefficient": above(0),
    "evaluation.linear.momentum": below_one(),
    "evaluation.attentive.scale": span(0, 1),
    "evaluation.attentive.momentum": below_one(),
    "evaluation.attentive.heads": at_least(0),
    "evaluation.attentive.cache_gb": at_least(0),
    "evaluation.finetune.scale": span(0, 1),
    "evaluation.finetune.b1": below_one(),
    "evaluation.finetune.b2": below_one(),
    "evaluation.finetune.layer_decay": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "evaluation.finetune.drop_path_rate": below_one(),
    "evaluation.finetune.pooling": one_of("mean", "cls", "all"),
    "evaluation.finetune.mixup_probability": within(0, 1),
    "evaluation.finetune.mixup_switch_probability": within(0, 1),
    "evaluation.finetune.label_smoothing": below_one(),
    "evaluation.finetune.random_erasing": within(0, 1),
    "evaluation.finetune.erasing_mode": one_of("pixel", "color", "const"),
    "evaluation.finetune.erasing_count": at_least(1),
    "evaluation.finetune.accumulate": at_least(1),
    "evaluation.finetune.precision": one_of("bf16", "fp32"),
    "evaluation.finetune.optimizer": one_of("adamw", "lamb", "lars", "sgd"),
    "evaluation.finetune.schedule": one_of("cosine", "cosine_whole"),
    "evaluation.finetune.warmup_lr": at_least(0),
    "evaluation.finetune.ema": below_one(),
    "evaluation.finetune.head_std": at_least(0),
    "evaluation.finetune.relative_bias": one_of("", "none", "shared", "per_block"),
    "evaluation.finetune.window_size": at_least(0),
    "evaluation.finetune.trainable_blocks": at_least(0),
    "evaluation.finetune.criterion": one_of("cross_entropy", "binary"),
    "evaluation.finetune.mixup_mode": one_of("batch", "each"),
    "evaluation.finetune.flip": within(0, 1),
    "evaluation.finetune.color_jitter": within(0, 1),
    "evaluation.finetune.repeated": at_least(0),
    "evaluation.finetune.image_size": (lambda v: len(v) == 2 and min(v) >= 0, "(height, width), or (0, 0)"),
    "evaluation.finetune.crop_pct": within(0, 1),
    "evaluation.finetune.label_fraction": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "evaluation.finetune.images_per_class": at_least(0),
    "evaluation.finetune.subset_seed": at_least(0),
    "evaluation.finetune.eval_every": at_least(0),
    "evaluation.finetune.checkpoint_every": at_least(0),
}
EVALUATION |= {
    "evaluation.linear_sweep.lr": all_of(above(0)),
    "evaluation.linear_sweep.choose_by": one_of("eval", "train"),
    "evaluation.linear_sweep.scale": span(0, 1),
    "evaluation.layers.lr": all_of(above(0)),
    "evaluation.few_shot.images_per_class": (lambda v: all(x >= 1 for x in v), "numbers of at least 1"),
    "evaluation.few_shot.fractions": (lambda v: all(0 < x <= 1 for x in v), "shares above 0, up to 1"),
    "evaluation.few_shot.draws": at_least(1),
    "evaluation.few_shot.penalty": above(0),
    "evaluation.multi_query.scale": span(0, 1),
    "evaluation.multi_query.momentum": below_one(),
    "evaluation.multi_query.trust_coefficient": above(0),
    "evaluation.multi_query.queries": at_least(1),
    "evaluation.multi_query.cache_gb": at_least(0),
}
for _section in ("linear_sweep", "layers"):
    EVALUATION[f"evaluation.{_section}.epochs"] = at_least(1)
    EVALUATION[f"evaluation.{_section}.batch_size"] = at_least(1)
    EVALUATION[f"evaluation.{_section}.lr_batch"] = at_least(0)
    EVALUATION[f"evaluation.{_section}.momentum"] = below_one()
    EVALUATION[f"evaluation.{_section}.weight_decay"] = at_least(0)
# The same names mean the same in every evaluation that trains something.
for _section in ("linear", "attentive", "multi_query", "finetune"):
    EVALUATION[f"evaluation.{_section}.epochs"] = above(0)
    EVALUATION[f"evaluation.{_section}.batch_size"] = at_least(1)
    for _key in ("warmup_epochs", "lr", "lr_batch", "min_lr", "weight_decay", "clip_norm", "mixup", "cutmix"):
        EVALUATION[f"evaluation.{_section}.{_key}"] = at_least(0)
EVALUATION |= {
    "evaluation.ood.k": at_least(1),
    "evaluation.occlusion.ratios": all_of(within(0, 1)),
    "evaluation.occlusion.modes": all_of(one_of("random", "salient", "non_salient")),
    "evaluation.occlusion.patch": at_least(0),
    "evaluation.patch_shuffle.grids": all_of(at_least(1)),
    "evaluation.analysis.images": at_least(2),
    "evaluation.analysis.pooled_images": at_least(3),
    "evaluation.analysis.batch_size": at_least(1),
    "evaluation.analysis.pca_images": at_least(1),
}
for _section in ("segmentation", "depth"):
    for _key in ("crop", "stride"):
        EVALUATION[f"evaluation.{_section}.{_key}"] = pair_of_sizes()
    for _key in ("long", "steps", "batch_size", "window_batch"):
        EVALUATION[f"evaluation.{_section}.{_key}"] = at_least(1)
    for _key in ("short", "pixel_patch", "warmup_steps", "lr", "min_lr", "weight_decay", "clip_norm"):
        EVALUATION[f"evaluation.{_section}.{_key}"] = at_least(0)
    EVALUATION[f"evaluation.{_section}.checkpoint_every"] = at_least(0)
    EVALUATION[f"evaluation.{_section}.scale"] = span(0, 100)
    EVALUATION[f"evaluation.{_section}.flip"] = within(0, 1)
    EVALUATION[f"evaluation.{_section}.inference"] = one_of("slide", "whole")
EVALUATION |= {
    "evaluation.segmentation.classes": at_least(0),
    "evaluation.segmentation.head": one_of("linear", "upernet"),
    "evaluation.segmentation.encoder": one_of("frozen", "finetune"),
    "evaluation.segmentation.channels": at_least(0),
    "evaluation.segmentation.dropout": below_one(),
    "evaluation.segmentation.auxiliary": at_least(0),
    "evaluation.segmentation.cat_max_ratio": within(0, 1),
    "evaluation.segmentation.layer_decay": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "evaluation.segmentation.drop_path_rate": below_one(),
    "evaluation.segmentation.test_scales": all_of(above(0)),
    "evaluation.depth.unit": above(0),
    "evaluation.depth.low": above(0),
    "evaluation.depth.high": above(0),
    "evaluation.depth.bins": at_least(2),
    "evaluation.depth.upsample": at_least(1),
    "evaluation.depth.scaling": one_of("none", "median"),
}
RULES |= EVALUATION
