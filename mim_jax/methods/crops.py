"""What the methods share that see several crops of an image (DINO, iBOT, MSN)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from mim_jax.errors import ConfigError
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Batch, Pictures, ViewShape
from mim_jax.methods.pictures import feature_colours, id_colours, patch_pictures
from mim_jax.models.projection_head import ProjectionHead, head_flops
from mim_jax.models.vit import vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.patches import patch_grid, patchify

Size = tuple[int, int]


def crop_views(model: VitConfig, count: int, size: Size, more: int = 0) -> dict[str, ViewShape]:
    """Two crops of the model's size, `image` and `image2`, and, where there are any, `count` small ones, `local`, and
    `more` of the model's size, `more`."""
    whole = ViewShape(model.image_size, model.channels)
    further = {"more": (model.image_size, more), "local": (size, count)}
    found = {name: ViewShape(side, model.channels, n) for name, (side, n) in further.items() if n}
    return {"image": whole, "image2": whole, **found}


def check_crops(model: VitConfig, count: int, size: tuple[int, int]) -> None:
    """Refuses models without class token, and small crops that are too large or do not fall into patches.

    Raises:
        ConfigError: names the key, the value and the nearest valid one.
    """
    if not model.cls_token:
        raise ConfigError("model.cls_token False leaves no class token by which crops are compared; set it to True")
    if count < 0:
        raise ConfigError(f"method.local_crops {count} must be 0 or more")
    if not count:
        return
    if len(size) != 2:
        raise ConfigError(f"method.local_size {size} must be (height, width)")
    for side, local, whole, patch in zip(("height", "width"), size, model.image_size, model.patch_size, strict=True):
        if local > whole:
            raise ConfigError(
                f"method.local_size {size}: its {side} is more than model.image_size {model.image_size}; give at most "
                f"{whole}"
            )
        if local < patch or local % patch:
            nearest = max(round(local / patch), 1) * patch
            raise ConfigError(
                f"method.local_size {size}: its {side} must be a multiple of the patch of {patch}; nearest is {nearest}"
            )
    if model.relative_bias != "none":
        raise ConfigError(
            f"model.relative_bias '{model.relative_bias}' is a table for one grid, but local crops have another; "
            "set it to 'none', or method.local_crops to 0"
        )


def merged(crops: Shaped[Array, "B S *T"] | None) -> Shaped[Array, "C *T"] | None:
    """Crops as images of a batch S times as large; the crops of an image stay together, and so on its device."""
    return None if crops is None else crops.reshape(-1, *crops.shape[2:])


def parted(images: Shaped[Array, "C *T"] | None, batch: int) -> Shaped[Array, "B S *T"] | None:
    """Inverse of `merged`; None where there are no crops."""
    return None if images is None or not len(images) else images.reshape(batch, -1, *images.shape[1:])


def passes(*views: tuple[int, Size]) -> list[tuple[int, Size]]:
    """(crops of an image, their size) of views with so many crops: neighbours of one size are one pass."""
    found: list[tuple[int, Size]] = []
    for count, size in (view for view in views if view[0]):
        if found and found[-1][1] == size:
            count += found.pop()[0]
        found.append((count, size))
    return found


def crops_by_size(batch: Batch, names: Sequence[str]) -> list[Float[Array, "B S H W C"]]:
    """The crops of some views, neighbours of one size together: (B, crops, H, W, C) each."""
    groups: list[list[Any]] = []
    for view in (batch[name] for name in names):
        crops = view.reshape(len(view), -1, *view.shape[-3:])
        if groups and groups[-1][0].shape[2:] == crops.shape[2:]:
            groups[-1].append(crops)
        else:
            groups.append([crops])
    return [jnp.concatenate(group, axis=1) for group in groups]


def crop_noise(key: PRNGKeyArray, batch: int, count: int, model: VitConfig) -> Float[Array, "B S L 2"] | None:
    """Noise of drop path for `count` crops of every image; None where there are none, or the rate is 0."""
    return parted(drop_path_noise(key, batch * count, model.depth, model.drop_path_rate), batch)


def patches(model: VitConfig, size: Size) -> int:
    """How many patches a crop has."""
    return math.prod(patch_grid(size, model.patch_size))


def crop_flops(model: VitConfig, head: ProjectionHead, size: tuple[int, int], head_on_patches: bool = True) -> float:
    """Forward FLOPs of encoder and head on one crop."""
    count = patches(model, size)
    return vit_flops(model, count) + head_flops(head, model.width, count if head_on_patches else 0)


def feature_pictures(
    images: Float[Array, "B H W C"],
    mask: Mask,
    features: dict[str, Float[Array, "B N D"]],
    clusters: dict[str, Int[Array, "B N"]],
    attention: Float[Array, "B h w"],
) -> Pictures:
    """Input, masked input, features of patches in colours with one meaning for all, cluster ids, and attention."""
    grid, count = mask.grid, len(features)
    patch_size = (images.shape[1] // grid[0], images.shape[2] // grid[1])
    plain = patch_pictures(images, patchify(images, patch_size), mask.hidden, patch_size).panels
    together = jnp.concatenate(list(features.values()))
    colours = jnp.split(feature_colours(together, grid, jnp.concatenate([images] * count)), count)
    panels = {name: plain[name] for name in ("input", "masked")} | dict(zip(features, colours, strict=True))
    panels |= {name: id_colours(ids, grid, images) for name, ids in clusters.items()}
    heat = jnp.repeat(jnp.repeat(attention, patch_size[0], 1), patch_size[1], 2)
    return Pictures(panels, {"attention of the teacher's class token": heat})
