"""What is judged: a method's encoder, or the raw pixels, and how normalised images become named vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError, nearest
from mim_jax.methods.base import Features, Method, Variables

PIXELS = "pixels"
PIXELS_SIDE = 32  # larger images are averaged down to this many pixels a side before they count as a vector


def _both(features: Features) -> Float[Array, "B F"]:
    return jnp.concatenate([features.cls, features.pooled], axis=-1)


# Name of a feature -> how it is read from `Features`. A further one is added by a line.
FEATURES: dict[str, Callable[[Features], Float[Array, "B F"]]] = {
    "cls": lambda features: features.cls,
    "pooled": lambda features: features.pooled,
    "both": _both,
}


def check_feature(name: str, key: str) -> None:
    """Raises ConfigError where `name`, the value of config key `key`, is not a feature."""
    if name not in FEATURES:
        raise ConfigError(f"{key} = '{name}' is not a feature{nearest(name, FEATURES)}")


def select(features: Features, name: str) -> Float[Array, "B F"]:
    """One vector per image, float32.

    Raises:
        ConfigError: `cls` or `both` asked of an encoder without a cls token.
    """
    if features.cls is None and name in ("cls", "both"):
        raise ConfigError(f"feature '{name}' was asked for, but this encoder has no cls token; use 'pooled'")
    return FEATURES[name](features).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What is judged, with its weights.

    name: 'pretrained', 'untrained' or 'pixels'. method: None for pixels, the baseline that learns nothing; protocols
    that train the encoder use it.
    """

    name: str
    variables: Variables
    method: Method | None = None

    def feature(self, name: str) -> str:
        """The name under which this encoder gives feature `name`: pixels have but one."""
        return PIXELS if self.method is None else name


def raw_pixels() -> Encoder:
    """Normalised pixels in raster order as one vector."""
    return Encoder(PIXELS, Variables(params={}))


def vectors(
    method: Method | None, variables: Variables, images: Float[Array, "B H W C"], names: tuple[str, ...]
) -> dict[str, Float[Array, "B _"]]:
    """The named features of normalised images; for pixels, without a method, the one that there is."""
    if method is None:
        return {PIXELS: pixel_vectors(images)}
    features = method.encode(variables.params, images, extra=variables.extra)
    return {name: select(features, name) for name in names}


def pixel_vectors(images: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
    """Flattened images; sides above 32 are averaged down to 32, so that the vector stays at most 32 x 32 x C long."""
    batch, height, width, channels = images.shape
    shape = (batch, min(height, PIXELS_SIDE), min(width, PIXELS_SIDE), channels)
    if shape != images.shape:
        images = jax.image.resize(images, shape, method="linear", antialias=True)
    return images.reshape(batch, -1).astype(jnp.float32)
