"""The config of the run that fine-tunes an encoder, from section `evaluation.finetune` and the run that is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.data.settings import Settings as DataSettings
from mim_jax.data.split import open_split
from mim_jax.errors import ConfigError
from mim_jax.evaluation.protocol import Task
from mim_jax.methods.classifiers import EncoderConfig, encoder_section
from mim_jax.models.swin_config import SwinConfig
from mim_jax.models.vit_config import VitConfig
from mim_jax.training.sharding import batch_shards

SECTION = "evaluation.finetune"
Settings = Mapping[str, Any]
# Keys that the method has under the same name.
METHOD = (
    *("pooling", "criterion", "label_smoothing", "mixup", "cutmix", "mixup_probability"),
    *("mixup_switch_probability", "mixup_mode", "trainable_blocks", "head_std"),
)
OPTIMIZER = (
    *("lr", "lr_batch", "min_lr", "warmup_lr", "scale_min_lr", "schedule", "b1", "b2", "weight_decay"),
    *("layer_decay", "clip_norm", "ema", "warmup_epochs"),
)
VIEW = ("crop", "scale", "flip", "interpolation", "color_jitter")


def finetune_config(settings: Settings, task: Task, classes: int, mesh: Mesh) -> ConfigDict:
    """A checked config for `methods.finetune`.

    classes: of the labels. mesh: its devices share a batch.

    Raises:
        ConfigError: an impossible value, or an encoder that cannot be fine-tuned.
    """
    config = recipes.pretrain()
    size, repeated = image_size(settings, task), max(settings["repeated"], 1)
    with config.unlocked():
        config.seed = task.seed
        config.model = model_section(settings, task, size)
        config.method = {"name": "finetune", "classes": classes, "repeated": repeated}
        config.method.update({key: settings[key] for key in METHOD})
        config.data = data_section(settings, task, size)
        config.mesh = dict(mesh.shape)
        config.optimizer.name = settings["optimizer"]
        config.optimizer.update({key: settings[key] for key in OPTIMIZER})
        config.training = training_section(settings, config.training)
        if task.evaluation is not None:
            config.evaluation = task.evaluation.copy_and_resolve_references()
    fit_batch(config, settings, count(config.data, "pretrain"), mesh, task)
    configs.check(config)
    return config


def encoder_model(task: Task) -> EncoderConfig:
    """The config of what is fine-tuned, as it was pretrained."""
    method = task.encoder.method
    model = None if method is None else method.image_model
    if not isinstance(model, EncoderConfig):
        name = task.encoder.name if method is None else method.name
        raise ConfigError(f"a run of '{name}' has no encoder that could be fine-tuned")
    return model


def image_size(settings: Settings, task: Task) -> tuple[int, int]:
    """(height, width) of the images, as asked for or as pretrained."""
    model = encoder_model(task)
    asked = tuple(settings["image_size"])
    return model.image_size if asked == (0, 0) else (int(asked[0]), int(asked[1]))


def model_section(settings: Settings, task: Task, size: tuple[int, int]) -> dict[str, Any]:
    """The encoder as it was pretrained, but for what fine-tuning changes."""
    model = encoder_model(task)
    changes: dict[str, Any] = {"image_size": size, "drop_path_rate": float(settings["drop_path_rate"])}
    if isinstance(model, VitConfig):
        usual = "per_block" if model.relative_bias == "shared" else model.relative_bias
        changes["relative_bias"] = settings["relative_bias"] or usual
    if isinstance(model, SwinConfig):
        changes["window_size"] = settings["window_size"] or model.window_size
        if model.arch == "swinv2" and not model.pretrained_windows:
            # Log-spaced offsets stay in the unit of the windows of pretraining (Swin V2, section 3.3).
            changes["pretrained_windows"] = tuple(model.stage_window(stage) for stage in range(len(model.depths)))
    changed = dataclasses.replace(model, **changes)
    try:
        changed.check()
    except ConfigError as error:
        raise ConfigError(f"{SECTION}.image_size {size}: {error}") from error
    return encoder_section(changed)


def data_section(settings: Settings, task: Task, size: tuple[int, int]) -> ConfigDict:
    """The run's own images with the recipe's augmentation, and the subset of labels asked for."""
    data = task.data.copy_and_resolve_references()
    old = tuple(next(iter(data.views.values())).size)
    view = recipes.view(size) | {key: settings[key] for key in VIEW}
    view |= {"count": max(settings["repeated"], 1), "randaugment": settings["randaugment"]}
    view |= {key.replace("erasing", "erase"): settings[key] for key in ("erasing_mode", "erasing_count")}
    view["erase"] = settings["random_erasing"]
    with data.unlocked():
        data.views = {"image": view}
        data.fraction = float(settings["label_fraction"])
        data.balanced = data.fraction < 1
        data.per_class, data.subset_seed = settings["images_per_class"], settings["subset_seed"]
        if task.limit and data.fraction == 1 and not data.per_class:
            data.fraction = min(1.0, task.limit / count(task.data, "train"))
        if settings["crop_pct"]:
            data.eval_resize = round(min(size) / settings["crop_pct"])
        elif size != old:
            data.eval_resize = round(data.eval_resize * min(size) / min(old))
    return data


def count(data: ConfigDict, split: str) -> int:
    """How many images a split has."""
    return len(open_split(DataSettings.from_config(data), split)[1])


def training_section(settings: Settings, training: ConfigDict) -> ConfigDict:
    """Length, precision and what is kept of the run; nothing is looked at but the held-out accuracy."""
    training.epochs, training.accumulate = float(settings["epochs"]), settings["accumulate"]
    training.precision, training.tensorboard = settings["precision"], False
    training.checkpoint.update(
        every_epochs=float(settings["checkpoint_every"]), every_minutes=10.0, keep=1, keep_best=False
    )
    training.evaluate.update(loss_every_epochs=0.0, knn_every_epochs=0.0, pictures_every_epochs=0.0)
    return training


def fit_batch(config: ConfigDict, settings: Settings, images: int, mesh: Mesh, task: Task) -> None:
    """The batch of the recipe, or as many images as there are.

    Where images are repeated the loop counts images, the recipe crops: a step takes `batch / repeated` images, and an
    epoch of the recipe, which has as many crops as the data set has images, is `1 / repeated` of the loop's.
    """
    repeated, parts = config.method.repeated, batch_shards(mesh) * settings["accumulate"]
    wanted = settings["batch_size"] // repeated
    if wanted % parts and repeated == 1:
        raise ConfigError(
            f"{SECTION}.batch_size = {settings['batch_size']} does not divide into {parts} equal parts "
            f"({batch_shards(mesh)} device shards x {SECTION}.accumulate {settings['accumulate']}); "
            f"choose a multiple of {parts}"
        )
    wanted = wanted // parts * parts
    batch = min(images, wanted) // parts * parts
    if batch == 0:
        raise ConfigError(
            f"{images} training images are fewer than the {parts} parts of a batch ({batch_shards(mesh)} device shards "
            f"x {SECTION}.accumulate); take fewer devices or more labels"
        )
    if batch < wanted:
        task.say(f"finetune: batch size {settings['batch_size']} is more than {images} training images; {batch} it is")
    with config.unlocked():
        config.training.batch_size = batch
        config.training.log_every = max(1, images // batch)
        if repeated > 1:
            scale = batch * repeated / settings["lr_batch"] if settings["lr_batch"] else 1.0
            rates = ("lr", "min_lr", "warmup_lr") if settings["scale_min_lr"] else ("lr",)
            config.optimizer.update({key: settings[key] * scale for key in rates})
            config.optimizer.update(lr_batch=0, scale_min_lr=False)
            config.optimizer.warmup_epochs = settings["warmup_epochs"] / repeated
            config.training.epochs = settings["epochs"] / repeated
