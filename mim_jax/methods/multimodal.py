"""What MultiMAE does with each of its outputs (the error, the weight, the pictures), and with images alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import einops
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mim_jax.errors import ConfigError
from mim_jax.losses.masked import mean_of_means, squared_error
from mim_jax.losses.tokens import token_cross_entropy
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Features, Pictures, Tree, ViewShape
from mim_jax.methods.pictures import id_colours
from mim_jax.models.modalities import Modality, Named, Task
from mim_jax.models.multimae import MultimodalEncoder, global_first
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.patches import patch_grid, patchify, unpatchify
from mim_jax.targets.pixels import standardize, unstandardize


def given_maps(modalities: Named, size: tuple[int, int]) -> dict[str, ViewShape]:
    """The maps that the data must bring (`data.maps`), for images of `size`."""
    return {
        name: ViewShape((size[0] // one.stride, size[1] // one.stride), one.channels, 1, False, True, one.classes)
        for name, one in modalities
        if one.source == "given"
    }


def trace_of(
    grid: tuple[int, int],
    hidden: Bool[Array, "M B N"],
    tokens: Float[Array, "B V D"],
    predictions: dict[str, Array],
    values: dict[str, Array],
    losses: dict[str, Array],
) -> dict[str, Any]:
    """What pictures and tests look at. The mask is where no modality shows the patch."""
    seen = dict(latent=tokens, predictions=predictions, hidden=hidden, values=values, losses=losses)
    together = jnp.concatenate(list(predictions.values()), axis=-1)
    return seen | dict(mask=Mask(hidden.all(0), grid=grid), pred=together)


def image_model(config: VitConfig, global_tokens: int) -> VitConfig:
    """The plain vision transformer that MultiMAE's encoder is for images alone: the global token is the class token,
    since attention does not see in which order tokens stand (the authors' converter makes the same of it).

    Raises:
        ConfigError: there are several global tokens.
    """
    if global_tokens != 1:
        raise ConfigError(
            f"an encoder with method.global_tokens {global_tokens} is no plain vision transformer, which has one class "
            "token, so no other method can start from it; train one with method.global_tokens 1"
        )
    return dataclasses.replace(config, cls_token=True)


def image_params(params: Tree, name: str) -> Tree:
    """The parameters of that transformer; name: of the modality."""
    names = {"global_tokens": "cls_token", f"patch_embed_{name}": "patch_embed"}
    return {names.get(key, key): part for key, part in params.items() if key in names or key.startswith("blocks_")}


def image_features(
    encoder: MultimodalEncoder, params: Tree, name: str, images: Float[Array, "B H W C"], layers: bool
) -> Features:
    """Of whole images alone; the global token is the class token. There is no norm at the end."""
    found, outputs = encoder.apply({"params": params}, {name: images}, layers=layers)
    tokens, *outputs = (global_first(x, encoder.global_tokens) for x in (found.astype(jnp.float32), *outputs))
    grid = patch_grid((images.shape[1], images.shape[2]), encoder.config.patch_size)
    return Features(tokens[:, 0], tokens[:, 1:], tokens[:, 1:].mean(1), tuple(outputs), grid)


def task_error(
    task: Task, prediction: Float[Array, "B N P"], values: Array, patch_size: tuple[int, int]
) -> Float[Array, "B N"]:
    """The error of each patch in the measure of the modality: the mean over its values or labels, float32.

    values: the modality of the whole images, (B, h, w, c) pixels or (B, h, w) labels.
    """
    modality = task.modality
    target = patchify(values[..., None] if modality.classes else values, modality.side(patch_size))
    if modality.classes:
        logits = prediction.reshape(*target.shape, modality.classes)
        return token_cross_entropy(logits, target).mean(-1)
    target = standardize(target) if task.standardised else target
    return jnp.abs(prediction - target).mean(-1) if modality.loss == "l1" else squared_error(prediction, target)


def task_loss(
    task: Task,
    prediction: Float[Array, "B N P"],
    values: Array,
    hidden: Bool[Array, "M B N"],
    patch_size: tuple[int, int],
) -> Float[Array, ""]:
    """Where the task's modality is hidden, image by image; everywhere where it is no input."""
    error = task_error(task, prediction, values, patch_size)
    return mean_of_means(error, jnp.ones_like(error, bool) if task.own is None else hidden[task.own])


def task_losses(
    tasks: Mapping[str, Task],
    predictions: Mapping[str, Array],
    values: Mapping[str, Array],
    hidden: Bool[Array, "M B N"],
    patch_size: tuple[int, int],
) -> dict[str, Array]:
    """Every output's, by its name; values: every modality's."""
    return {n: task_loss(task, predictions[n], values[task.name], hidden, patch_size) for n, task in tasks.items()}


def weighed(losses: Mapping[str, Array], log_variances: Float[Array, " T"]) -> dict[str, Array]:
    """exp(-s) times each loss plus s (Kendall et al. 2018); a loss of 0, of a task that was left out, stays 0."""
    both = zip(losses.items(), log_variances, strict=True)
    return {name: jnp.where(loss == 0, 0.0, jnp.exp(-log) * loss + log) for (name, loss), log in both}


def multimodal_pictures(
    images: Float[Array, "B H W C"],
    trace: Mapping[str, Any],
    tasks: Mapping[str, Task],
    patch_size: tuple[int, int],
) -> Pictures:
    """For each output its modality, what of it is visible, and the prediction where it is hidden.

    trace: of MultiMAE: `values` by modality, `predictions` by output, `hidden` by input. Labels are arbitrary colours;
    one channel serves all of the image.
    """
    panels, grid = {"input": images}, (images.shape[1] // patch_size[0], images.shape[2] // patch_size[1])

    def drawn(modality: Modality, values: Float[Array, "B h w c"] | Int[Array, "B h w"]) -> Float[Array, "B H W C"]:
        if modality.classes:
            return id_colours(values.reshape(len(values), -1), (values.shape[1], values.shape[2]), images)
        return values if values.shape[-1] == images.shape[-1] else jnp.repeat(values[..., :1], images.shape[-1], -1)

    for name, task in tasks.items():
        modality, values, prediction = task.modality, trace["values"][task.name], trace["predictions"][name]
        side = modality.side(patch_size)
        if modality.classes:
            labels = prediction.reshape(*prediction.shape[:2], -1, modality.classes).argmax(-1)
            found = einops.rearrange(
                labels, "b (h w) (p q) -> b (h p) (w q)", h=grid[0], w=grid[1], p=side[0], q=side[1]
            )
        else:
            pixels = unstandardize(prediction, patchify(values, side)) if task.standardised else prediction
            found = unpatchify(pixels, side, grid)
        true, found = drawn(modality, values), drawn(modality, found)
        hide = jnp.ones(true.shape[:3], bool)
        if task.own is not None:
            hide = trace["hidden"][task.own].reshape(-1, *grid).repeat(patch_size[0], 1).repeat(patch_size[1], 2)
        if not task.standardised:
            panels |= {name: true, f"{name} masked": jnp.where(hide[..., None], 0.0, true)}
        panels[f"{name} predicted"] = jnp.where(hide[..., None], found, true)
    return Pictures(panels, {}, any(task.standardised for task in tasks.values()))
