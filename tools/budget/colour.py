"""Colour jitter, grayscale, blur and solarisation of 8-bit images on the device.

The operations are those of `mim_jax.data.jitter` and `mim_jax.data.effects` and come with the same probabilities. Three
things differ: random numbers are JAX's, the four parts of the jitter always come in one order (brightness, contrast,
saturation, hue; the host draws it), and the blur is a sampled Gaussian where Pillow has three boxes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.data.views import View

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
REACH = 6  # pixels of the blur to either side: three of its largest standard deviations


def serves(view: View) -> str:
    """'' where all that the view asks for is done here, else what is not."""
    if view.policy is not None or view.erasing.probability:
        return f"view {view.name}: RandAugment and erasing are not done here"
    return ""


def jitters(view: View) -> bool:
    return any((view.jitter.strength, view.jitter.saturation, view.jitter.hue))


def jittered(view: View, key: jax.Array, image: jax.Array) -> jax.Array:
    """One image (H, W, 3) uint8 with the view's jitter."""
    if not jitters(view):
        return image
    often, amounts = jax.random.split(key)
    x = _unit(image)
    changed = jax.random.uniform(often) < view.jitter.probability
    return _levels(jnp.where(changed, _jitter(view, amounts, x), x))


def with_effects(view: View, key: jax.Array, image: jax.Array) -> jax.Array:
    """One image (H, W, 3) uint8 with the view's grayscale, blur and solarisation, or with one of them."""
    effects = view.effects
    shares = jnp.array([effects.grayscale, effects.blur, effects.solarize])
    if not any((effects.grayscale, effects.blur, effects.solarize)):
        return image
    often, which, size = jax.random.split(key, 3)
    if effects.one:
        chosen = jnp.searchsorted(jnp.cumsum(shares), jax.random.uniform(which) * shares.sum(), side="right")
        wanted = jnp.arange(3) == jnp.minimum(chosen, 2)
    else:
        wanted = jax.random.uniform(often, (3,)) < shares
    x = _unit(image)
    x = jnp.where(wanted[0], _grey(x), x) if effects.grayscale else x
    if effects.blur:
        radius = jax.random.uniform(size, (), minval=effects.blur_radius[0], maxval=effects.blur_radius[1])
        x = jnp.where(wanted[1], blur(x, radius), x)
    x = jnp.where(wanted[2] & (x >= 128 / 255), 1 - x, x) if effects.solarize else x
    return _levels(x)


def _unit(image: jax.Array) -> jax.Array:
    return image.astype(jnp.float32) / 255


def _levels(x: jax.Array) -> jax.Array:
    return jnp.round(jnp.clip(x, 0, 1) * 255).astype(jnp.uint8)


def _jitter(view: View, key: jax.Array, x: jax.Array) -> jax.Array:
    strengths = jnp.array([view.jitter.strength, view.jitter.strength, view.jitter.saturation])
    u = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    bright, contrast, colour = jnp.maximum(1 + strengths * u[:3], 0)
    x = jnp.clip(x * bright, 0, 1)
    x = jnp.clip(jnp.mean(_grey(x)) * (1 - contrast) + x * contrast, 0, 1)
    x = jnp.clip(_grey(x) * (1 - colour) + x * colour, 0, 1)
    return shift_hue(x, view.jitter.hue * u[3]) if view.jitter.hue else x


def _grey(x: jax.Array) -> jax.Array:
    return jnp.broadcast_to((x @ LUMA)[..., None], x.shape)


def shift_hue(x: jax.Array, share: jax.Array) -> jax.Array:
    """Hue turned by a share of the colour circle, in HSV."""
    high, low = x.max(-1), x.min(-1)
    span = jnp.where(high > low, high - low, 1.0)
    r, g, b = x[..., 0], x[..., 1], x[..., 2]
    hue = jnp.where(high == r, (g - b) / span, jnp.where(high == g, 2 + (b - r) / span, 4 + (r - g) / span)) / 6
    hue = (hue + share) % 1.0
    saturation = jnp.where(high > low, (high - low) / jnp.where(high > 0, high, 1.0), 0.0)
    ramp = jnp.stack([(hue * 6 + n) % 6 for n in (5.0, 3.0, 1.0)], axis=-1)
    weight = jnp.clip(jnp.minimum(ramp, 4 - ramp), 0, 1)
    return high[..., None] * (1 - saturation[..., None] * weight)


def blur(x: jax.Array, radius: jax.Array) -> jax.Array:
    """Gaussian blur with standard deviation `radius`; the border pixel goes on outside."""
    offsets = jnp.arange(-REACH, REACH + 1)
    weights = jnp.exp(-0.5 * (offsets / radius) ** 2)
    weights = weights / weights.sum()
    for axis in (0, 1):
        padding = [(0, 0)] * x.ndim
        padding[axis] = (REACH, REACH)
        padded = jnp.pad(x, padding, mode="edge")
        parts = [jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(2 * REACH + 1)]
        x = sum(w * part for w, part in zip(weights, parts, strict=True))
    return x
