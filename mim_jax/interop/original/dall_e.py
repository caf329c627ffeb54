"""openai/DALL-E: names of the arrays of the published encoder and decoder, and how reference cases of them read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mim_jax.errors import ConfigError, VerifyError
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds.pos_resize import pair
from mim_jax.interop.name_map import NameMap, Rule, to_ours
from mim_jax.interop.rules import same
from mim_jax.interop.system import System
from mim_jax.interop.weights import SUFFIXES, read_weights
from mim_jax.models.dalle import map_pixels
from mim_jax.models.tokenizer import TokenizerConfig, encode_images, tokenize, tokenizer_init

Tree = Any
KERNEL = "o i h w -> h w i o"


def convolution(theirs: str, ours: str) -> tuple[Rule, ...]:
    return Rule((f"{theirs}.w",), (f"{ours}/kernel",), KERNEL), *same(f"{theirs}.b", f"{ours}/bias")


NAMES = NameMap(  # encoder and decoder name their parts alike
    rules=(
        *convolution("blocks.input", "input"),
        *convolution("blocks.group_{g}.block_{n}.id_path", "group_{g}_block_{n}/id_path"),
        *convolution("blocks.group_{g}.block_{n}.res_path.conv_{c}", "group_{g}_block_{n}/conv_{c}"),
        *convolution("blocks.output.conv", "output"),
    )
)


def to_tree(weights: Mapping[str, np.ndarray], like: Tree) -> Tree:
    """One of the two networks, in the shape of `like`.

    Raises:
        VerifyError: an array that is missing, unknown or of another shape.
    """
    return jax.tree.map(jnp.asarray, to_ours(NAMES, weights, like, {}))


def read(source: Path, like: Tree) -> Tree:
    """The tokenizer of a weight file (encoder), or of a folder with encoder.* and decoder.*, in the shape of `like`.

    Raises:
        ConfigError: a part that is not there.
        VerifyError, DataError: weights that cannot be read or do not fit.
    """
    parts = {part: _file(source, part) if source.is_dir() else source for part in like}
    return {part: to_tree(read_weights(file), like[part]) for part, file in parts.items()}


def check(source: Path, parts: tuple[str, ...]) -> None:
    """Refuses a folder that lacks one of `parts`, without reading weights."""
    if source.is_dir():
        for part in parts:
            _file(source, part)


def _file(folder: Path, part: str) -> Path:
    found = [folder / f"{part}{suffix}" for suffix in SUFFIXES if (folder / f"{part}{suffix}").exists()]
    if not found:
        raise ConfigError(
            f"method.tokenizer.source '{folder}' holds no {part} as one of {', '.join(SUFFIXES)}; "
            "without a decoder, name the encoder's file itself"
        )
    return found[0]


def run_encoder(case: Case) -> Result:
    """Pixels in [0, 1] to mapped pixels, logits and tokens."""
    c, images = case.config, jnp.asarray(case.inputs["images01"])
    settings = dict(
        image_size=pair(c["image_size"], "image_size"),
        channels=int(images.shape[-1]),
        hidden=c["hidden"],
        blocks=c["blocks_per_group"],
        vocabulary=c["vocabulary"],
    )
    config = TokenizerConfig.from_section(settings, "config")
    if images.shape[1:3] != config.image_size:
        raise VerifyError(
            f"{case.folder}: images of {images.shape[1:3]} pixels, but config.image_size {config.image_size}"
        )
    like = jax.eval_shape(lambda key: tokenizer_init(config, key), jax.random.key(0))
    params = {"encoder": to_tree(case.weights, like["encoder"])}
    _, logits = encode_images(config, params["encoder"], images)
    arrays = {"logits": logits, "tokens": tokenize(config, params, images)}
    grid = {name: rearrange(a, "b (h w) ... -> b h w ...", h=config.grid[0]) for name, a in arrays.items()}
    return Result(arrays={"mapped": map_pixels(images), **grid})


SYSTEM = System(upstream="openai/DALL-E", kinds={"dvae_encoder": run_encoder})
