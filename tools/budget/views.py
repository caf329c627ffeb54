"""Batches out of images that lie on the device: records drawn, cropped, flipped and recoloured inside the step."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from budget import colour
from mim_jax.data.views import View
from mim_jax.training.device_crops import crop_resize

TRIES = 10


def box(view: View, key: jax.Array, height: int, width: int) -> jax.Array:
    """(top, left, height, width, flipped), int32: the distribution of `mim_jax.data.crops.random_resized_box`."""
    area_key, ratio_key, place_key, flip_key = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(area_key, (TRIES,), minval=view.scale[0], maxval=view.scale[1])
    low, high = jnp.log(jnp.array(view.ratio))
    aspect = jnp.exp(jax.random.uniform(ratio_key, (TRIES,)) * (high - low) + low)
    h = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    w = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    good = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = jnp.argmax(good)
    # Square images, which these are, fall back to the whole.
    h, w = (jnp.where(good.any(), side[first], whole) for side, whole in ((h, height), (w, width)))
    u = jax.random.uniform(place_key, (2,))
    top, left = (u[0] * (height - h + 1)).astype(jnp.int32), (u[1] * (width - w + 1)).astype(jnp.int32)
    flip = (jax.random.uniform(flip_key) < view.flip).astype(jnp.int32)
    return jnp.stack([top, left, h, w, flip])


def batch(views: Sequence[View], key: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    """The views of images (B, H, W, C) uint8, as the host's pipeline hands them to a step."""
    keys = jax.random.split(key, (len(images), len(views)))
    by_name = {view.name: place for place, view in enumerate(views)}

    def one(image: jax.Array, keys: jax.Array) -> dict[str, jax.Array]:
        # A view that is the same as another draws with its key: one box, one flip, one change of colours.
        return {view.name: look(view, keys[by_name[view.same_as or view.name]], image) for view in views}

    return jax.vmap(one)(images, keys)


def look(view: View, key: jax.Array, image: jax.Array) -> jax.Array:
    """(h, w, C), or (count, h, w, C) where a view has several crops."""

    def crop(key: jax.Array) -> jax.Array:
        box_key, jitter_key, effects_key = jax.random.split(key, 3)
        drawn = box(view, box_key, image.shape[0], image.shape[1])
        whole = colour.jittered(view, jitter_key, image) if view.jitter_first else image
        made = crop_resize(whole, drawn, view.size, view.interpolation)
        made = made if view.jitter_first else colour.jittered(view, jitter_key, made)
        return colour.with_effects(view, effects_key, made)

    return jax.vmap(crop)(jax.random.split(key, view.count)) if view.count > 1 else crop(key)


def refuse(views: Sequence[View]) -> None:
    """Ends with a sentence where a view asks for what is not done here."""
    for view in views:
        wrong = colour.serves(view)
        if view.crop != "random_resized":
            wrong = f"view {view.name}: crop '{view.crop}' is not done here, only random_resized is"
        if wrong:
            raise SystemExit(wrong)
