"""What is judged: a method's encoder, or the raw pixels, and how normalised images become named vectors."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError, nearest
from mim_jax.methods.base import Features, Method, Variables

PIXELS = "pixels"
PIXELS_SIDE = 32  # larger images are averaged down to this many pixels a side before they count as a vector

# Features of whole images by name; `blockN` and `lastN` stand for one name per number.
FEATURES = {
    "cls": "class token after the final norm",
    "pooled": "mean of the patch tokens after the final norm",
    "both": "these two joined (DINO's probe of ViT-B)",
    "blockN": "mean of the patch tokens after block N = 1, 2, ... and, in a vision transformer, the final norm",
    "lastN": "class tokens of the last N blocks, each after the final norm, joined (DINO's probe of ViT-S)",
}
_NUMBERED = re.compile(r"(block|last)([1-9]\d*)")


def check_feature(name: str, key: str) -> None:
    """Raises ConfigError where `name`, the value of config key `key`, is not a feature."""
    if name not in ("cls", "pooled", "both") and not _NUMBERED.fullmatch(name):
        raise ConfigError(f"{key} = '{name}' is not a feature{nearest(name, FEATURES)}")


def is_feature(name: str) -> bool:
    """Whether vectors of whole images go by that name."""
    return name in ("cls", "pooled", "both") or bool(_NUMBERED.fullmatch(name))


def select(features: Features, name: str) -> Float[Array, "B F"]:
    """One vector per image, float32.

    Raises:
        ConfigError: `cls`, `both` or `lastN` asked of an encoder without a cls token, or a block that is not there.
    """
    numbered = _NUMBERED.fullmatch(name)
    number = int(numbered[2]) if numbered else 0
    if features.cls is None and (name in ("cls", "both") or name.startswith("last")):
        raise ConfigError(f"feature '{name}' was asked for, but this encoder has no cls token; use 'pooled'")
    if number > len(features.layers):
        count = len(features.layers)
        raise ConfigError(
            f"feature '{name}' was asked for, but this encoder has {count} blocks; ask for one up to {count}"
        )
    if name == "both":
        found = jnp.concatenate([features.cls, features.pooled], axis=-1)
    elif name.startswith("block"):
        tokens = features.layers[number - 1]
        found = tokens[:, 0 if features.cls is None else 1 :].mean(1, dtype=jnp.float32)
    elif name.startswith("last"):
        found = jnp.concatenate([tokens[:, 0] for tokens in features.layers[-number:]], axis=-1)
    else:
        found = features.cls if name == "cls" else features.pooled
    return found.astype(jnp.float32)


@functools.cache
def shapes_of(method: Method) -> Variables:
    """The variables of a method as shapes; nothing is computed."""
    views = {name: jax.ShapeDtypeStruct(view.array(1), jnp.float32) for name, view in method.views().items()}
    return jax.eval_shape(method.init, jax.random.key(0), views)


@functools.cache
def tokens_by_block(method: Method) -> tuple[int, ...]:
    """How many tokens leave every block (`blockN`) of a method's encoder, for an image of its own size."""
    image = jax.ShapeDtypeStruct(dataclasses.replace(method.views()["image"], count=1).array(1), jnp.float32)
    encode, shapes = functools.partial(method.encode, layers=True), shapes_of(method)
    found = jax.eval_shape(lambda p, e, x: encode(p, x, extra=e), shapes.params, shapes.extra, image)
    return tuple(layer.shape[1] for layer in found.layers)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What is judged, with its weights.

    name: 'pretrained', 'untrained' or 'pixels'. method: None for pixels, the baseline that learns nothing; protocols
    that train the encoder use it.
    """

    name: str
    variables: Variables
    method: Method | None = None

    @property
    def model(self) -> Any:
        """The config of the encoder (`Method.model`); None for pixels."""
        return None if self.method is None else self.method.model

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
    features = method.encode(
        variables.params,
        images,
        extra=variables.extra,
        layers="normed" if any(map(_NUMBERED.fullmatch, names)) else False,
    )
    return {name: select(features, name) for name in names}


def pixel_vectors(images: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
    """Flattened images; sides above 32 are averaged down to 32, so that the vector stays at most 32 x 32 x C long."""
    batch, height, width, channels = images.shape
    shape = (batch, min(height, PIXELS_SIDE), min(width, PIXELS_SIDE), channels)
    if shape != images.shape:
        images = jax.image.resize(images, shape, method="linear", antialias=True)
    return images.reshape(batch, -1).astype(jnp.float32)
