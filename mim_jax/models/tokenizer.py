"""Image tokenizers: images to a grid of token ids and back. Frozen where a method predicts tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mim_jax.errors import ConfigError, check_choices, check_keys
from mim_jax.models import dalle
from mim_jax.models.conv_autoencoder import (
    ConvDecoder,
    ConvEncoder,
    conv_decoder_flops,
    conv_encoder_flops,
    level_widths,
)
from mim_jax.models.task_vit import TaskVit, task_vit_flops
from mim_jax.models.vit_config import DTYPES, VitConfig
from mim_jax.nn.vector_quantizer import DISTANCES, nearest_code, unit

Tree = Any
KINDS = ("dalle", "dvae", "vq", "vqkd")
NEAREST = ("vq", "vqkd")  # the token is the nearest code
FILES = (".safetensors", ".pt", ".pth", ".bin", ".pkl")


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Architecture of a tokenizer, and where its weights come from.

    kind: dalle (DALL-E's discrete VAE, published weights) | dvae (a discrete VAE trained here: the encoder gives
        logits) | vq (VQ-VAE trained here: the encoder gives a vector, the token is its nearest code) | vqkd (BEiT v2's,
        trained here by the method of that name: as vq, by a ViT of width `hidden` with so many `blocks` and `heads`).
    source: run folder of the method that trained it; for dalle the encoder's weight file, or a folder with encoder.*
        and decoder.*; '' where it is being trained.
    stride: pixels per token and side. hidden: width before the tokens (of the first group for dalle).
    blocks: residual blocks per resolution. code_width: length of a code vector (dvae, vq).
    distance: of vq: plain (Euclidean) | cosine (codes and vectors of length 1: ViT-VQGAN, BEiT v2).
    """

    kind: str = "dalle"
    source: str = ""
    image_size: tuple[int, int] = (112, 112)
    channels: int = 3
    stride: int = 8
    vocabulary: int = 8192
    hidden: int = 256
    blocks: int = 2
    code_width: int = 32
    distance: str = "plain"
    heads: int = 12
    precision: str = "fp32"

    @classmethod
    def from_section(cls, values: Mapping[str, Any], where: str = "method.tokenizer") -> TokenizerConfig:
        """From a section of a config; an image side given once serves both.

        Raises:
            ConfigError: an unknown key, or an impossible value, with the nearest valid one.
        """
        check_keys(cls, values, where, "a tokenizer")
        side = values.get("image_size", cls.image_size)
        sides = (side, side) if isinstance(side, int) else tuple(side)
        if len(sides) != 2:
            raise ConfigError(f"{where}.image_size {sides} must be (height, width), or one number for both")
        config = cls(**{**values, "image_size": sides})
        config.check(where)
        return config

    def check(self, where: str) -> None:
        """Refuses impossible values.

        Raises:
            ConfigError: names the key, the value and the mend.
        """
        check_choices(self, where, kind=KINDS, distance=DISTANCES, precision=DTYPES)
        if self.stride < 2 or self.stride & (self.stride - 1):
            raise ConfigError(f"{where}.stride {self.stride} must be a power of 2, such as 4, 8 or 16")
        if self.kind == "dalle" and self.stride != dalle.STRIDE:
            raise ConfigError(
                f"{where}.stride {self.stride}: tokens of kind 'dalle' have stride {dalle.STRIDE}; set it so"
            )
        for side in self.image_size:
            if side < self.stride or side % self.stride:
                near = max(1, round(side / self.stride)) * self.stride
                raise ConfigError(
                    f"{where}.image_size {self.image_size} is not divisible by {where}.stride {self.stride}; "
                    f"nearest side that is: {near}"
                )
        if min(self.channels, self.blocks, self.code_width) < 1 or self.vocabulary < 2:
            names = "channels, blocks and code_width must be positive and vocabulary at least 2"
            raise ConfigError(f"of the section {where}, {names}")
        if self.hidden < 4 or self.hidden % 4:
            raise ConfigError(f"{where}.hidden {self.hidden} must be a positive multiple of 4")

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (h, w) of an image of `image_size`."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    @property
    def tokens_per_image(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def dtype(self) -> Dtype:
        return DTYPES[self.precision]

    @property
    def vit(self) -> VitConfig:
        """The encoder of kind vqkd."""
        sizes = (self.image_size, self.channels, (self.stride,) * 2, self.hidden, self.blocks, self.heads)
        return VitConfig(*sizes, positions="learned", qkv_bias="qv", init="vqkd", precision=self.precision)

    @property
    def levels(self) -> int:
        """Halvings of the resolution."""
        return self.stride.bit_length() - 1

    @property
    def draws(self) -> bool:
        """Whether there is a decoder: a weight file of kind 'dalle' holds the encoder alone."""
        return self.kind in ("dvae", "vq") or (
            self.kind == "dalle" and bool(self.source) and not self.source.endswith(FILES)
        )

    def modules(self) -> tuple[Any, Any]:
        """(encoder, decoder) as linen modules; the encoder gives (features, logits or vectors)."""
        if self.kind == "vqkd":
            return TaskVit(self.vit, self.code_width), None
        if self.kind == "dalle":
            encoder = dalle.DalleEncoder(self.hidden, self.blocks, self.vocabulary, self.dtype)
            return encoder, dalle.DalleDecoder(self.hidden, self.blocks, self.channels, self.dtype)
        outputs = self.vocabulary if self.kind == "dvae" else self.code_width
        return (
            ConvEncoder(self.hidden, self.levels, self.blocks, outputs, self.dtype),
            ConvDecoder(self.hidden, self.levels, self.blocks, self.channels, self.dtype),
        )


def tokenizer_init(config: TokenizerConfig, key: PRNGKeyArray) -> Tree:
    """Fresh parameters: `encoder`, `decoder` (where there is one) and, for dvae and vq, `codebook` (V, D)."""
    encoder, decoder = config.modules()
    encoder_key, decoder_key, codebook_key = jax.random.split(key, 3)
    params = {"encoder": encoder.init(encoder_key, jnp.zeros((1, *config.image_size, config.channels)))["params"]}
    width = config.vocabulary if config.kind == "dalle" else config.code_width
    if config.draws:
        params["decoder"] = decoder.init(decoder_key, jnp.zeros((1, *config.grid, width)))["params"]
    if config.kind != "dalle":
        codes = jax.random.normal(codebook_key, (config.vocabulary, width))
        params["codebook"] = unit(codes) if config.distance == "cosine" else codes
    return params


def encode_images(
    config: TokenizerConfig, encoder: Tree, images: Float[Array, "B H W C"]
) -> tuple[Float[Array, "B N E"], Float[Array, "B N D"]]:
    """(features, logits or vectors) of images in [0, 1], raster order; vectors of length 1 where distance is cosine."""
    module = config.modules()[0]
    pixels = dalle.map_pixels(images) if config.kind == "dalle" else 2.0 * images - 1.0
    features, outputs = module.apply({"params": encoder}, pixels)
    features, outputs = (rearrange(x, "b h w d -> b (h w) d") for x in (features, outputs))
    if config.kind in NEAREST and config.distance == "cosine":
        outputs = unit(outputs)
    return features.astype(jnp.float32), outputs


def decode_vectors(config: TokenizerConfig, decoder: Tree, vectors: Float[Array, "B N D"]) -> Float[Array, "B H W C"]:
    """Images, not clipped, from code vectors; for dalle from one-hot tokens."""
    grid = rearrange(vectors, "b (h w) d -> b h w d", h=config.grid[0])
    images = config.modules()[1].apply({"params": decoder}, grid)
    return images if config.kind == "dalle" else (images + 1.0) / 2.0


def tokenize(config: TokenizerConfig, params: Tree, images: Float[Array, "B H W C"]) -> Int[Array, "B N"]:
    """Token ids of images in [0, 1], one per cell of the grid, raster order."""
    _, outputs = encode_images(config, params["encoder"], images)
    if config.kind in NEAREST:
        return nearest_code(outputs, params["codebook"])
    return jnp.argmax(outputs, axis=-1).astype(jnp.int32)


def detokenize(config: TokenizerConfig, params: Tree, tokens: Int[Array, "B N"]) -> Float[Array, "B H W C"]:
    """Images in [0, 1] of token ids; the ids as colours (`token_colours`) where there is no decoder."""
    if "decoder" not in params:
        return token_colours(config, tokens)
    dalle_kind = config.kind == "dalle"
    vectors = jax.nn.one_hot(tokens, config.vocabulary) if dalle_kind else jnp.asarray(params["codebook"])[tokens]
    return jnp.clip(decode_vectors(config, params["decoder"], vectors), 0.0, 1.0)


def token_colours(config: TokenizerConfig, tokens: Int[Array, "B N"]) -> Float[Array, "B H W C"]:
    """Every id as a colour of its own, in [0, 1]; equal ids are equal colours, and nothing else is meant."""
    # Multiples of irrational numbers are spread evenly over [0, 1).
    steps = jnp.asarray([0.7548777, 0.5698403, 0.6180340, 0.8191725])[jnp.arange(config.channels) % 4]
    colours = jnp.mod(0.5 + (tokens[..., None] + 1) * steps, 1.0)
    colours = rearrange(colours, "b (h w) c -> b h w c", h=config.grid[0])
    return colours.repeat(config.stride, axis=1).repeat(config.stride, axis=2)


def encoder_flops(config: TokenizerConfig) -> float:
    """Forward FLOPs of the encoder on one image, without choosing the tokens."""
    sizes = (config.image_size, config.channels, config.hidden)
    if config.kind == "vqkd":
        return task_vit_flops(config.vit, config.code_width)
    if config.kind == "dalle":
        return dalle.dalle_encoder_flops(*sizes, config.blocks, config.vocabulary)
    outputs = config.vocabulary if config.kind == "dvae" else config.code_width
    return conv_encoder_flops(*sizes, config.levels, config.blocks, outputs)


def tokenizer_flops(config: TokenizerConfig) -> float:
    """Forward FLOPs of tokenising one image."""
    distances = 2.0 * (config.code_width + 1) if config.kind in NEAREST else 0.0
    choice = 9.0  # what XLA counts per value for the place of the largest
    return encoder_flops(config) + config.tokens_per_image * config.vocabulary * (distances + choice)


def training_flops(config: TokenizerConfig) -> float:
    """Forward and backward FLOPs of training on one image (dvae, vq), without the sums that move a codebook."""
    c = config
    decoder = conv_decoder_flops(c.image_size, c.channels, c.hidden, c.levels, c.blocks, c.code_width)
    first = 2.0 * c.image_size[0] * c.image_size[1] * c.channels * level_widths(c.hidden, c.levels)[0]
    # Products of all tokens with all codes: the search (vq), or the mixture and its two gradients (dvae); and what is
    # done per token and code besides: distances and their smallest, or a softmax and the divergence.
    products, cells = (1, 12.0) if c.kind == "vq" else (3, 65.0)
    codes = c.tokens_per_image * c.vocabulary * (2.0 * c.code_width * products + cells)
    return 3 * (encoder_flops(c) + decoder) - first + codes  # images take no gradient


def check_grid(config: TokenizerConfig, grid: tuple[int, int], where: str = "method.tokenizer") -> None:
    """Refuses a tokenizer that does not give one token per patch.

    Raises:
        ConfigError: both grids, and an image size for the tokenizer that fits.
    """
    if config.grid != tuple(grid):
        fits = (grid[0] * config.stride, grid[1] * config.stride)
        raise ConfigError(
            f"{where} makes {config.grid[0]} x {config.grid[1]} tokens of images of {config.image_size} with stride "
            f"{config.stride}, but the encoder has {grid[0]} x {grid[1]} patches; set {where}.image_size (and the size "
            f"of data.views.tokens) to {fits}"
        )
