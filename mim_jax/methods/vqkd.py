"""VQ-KD, the tokenizer of BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers (Peng, Dong, Bao, Ye,
Wei. 2022).

Hidden: nothing. Predicted: the direction of a frozen teacher's feature of each patch, through a bottleneck of one code
per patch. By whom: a ViT, the nearest of a set of unit codes that follow their vectors, and a shallow ViT. Error: one
minus the cosine, plus the distance of the vectors from their codes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.cosine import cosine_error
from mim_jax.methods.base import Features, Output, ParamGroups, Pictures, Progress, Tree, Variables
from mim_jax.methods.building import section, start
from mim_jax.methods.teachers import Taught, direction_pictures
from mim_jax.models.task_vit import TaskVit, task_vit_flops
from mim_jax.models.tokenizer import TokenizerConfig, encode_images, encoder_flops, token_colours, tokenizer_init
from mim_jax.models.vit_config import VitConfig, check_heads
from mim_jax.nn import vector_quantizer as quantizer
from mim_jax.nn.kmeans import spherical_kmeans, start_ids

SIZES: dict[str, Any] = dict(kind="vqkd", image_size=(224, 224), stride=16, hidden=768, blocks=12, distance="cosine")


@dataclasses.dataclass(frozen=True)
class VQKD(Taught):
    """Trains a tokenizer of kind vqkd; the defaults are the released base model."""

    name: ClassVar[str] = "vqkd"
    masks: ClassVar[bool] = False

    model: TokenizerConfig = TokenizerConfig(**SIZES)
    decoder_width: int = 768
    decoder_depth: int = 3
    decoder_heads: int = 12
    commitment: float = 1.0  # weight of the unit vectors' squared distance from their codes, mean over values
    codebook_decay: float = 0.99  # of the codes
    start: str = "kmeans"  # kmeans (ten rounds on the first batch) | random (unit vectors)

    @classmethod
    def encoder_config(cls, model: Mapping[str, Any]) -> TokenizerConfig:
        return TokenizerConfig.from_section({**SIZES, **section(TokenizerConfig, model, "model")}, "model")

    def check(self) -> None:
        check_heads(self.decoder_width, self.decoder_heads, "method", "decoder_")
        check_heads(self.model.hidden, self.model.heads, "model")
        check_choices(self, "method", start=("kmeans", "random"))
        if self.model.kind != "vqkd" or self.model.distance != "cosine" or self.model.source:
            raise ConfigError("model.kind must be 'vqkd', model.distance 'cosine' and model.source '', to be trained")
        if not 0 <= self.codebook_decay <= 1 or self.commitment < 0:
            raise ConfigError("method.codebook_decay must lie between 0 and 1, and method.commitment not be negative")

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> VQKD:
        small = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=1, heads=2)
        teacher = dict(model=small, mean=(0.5,) * channels, std=(0.25,) * channels)
        sizes = dict(image_size=image_size, channels=channels, stride=4, hidden=16, blocks=1, heads=2)
        sizes |= dict(vocabulary=16, code_width=4)
        decoder = dict(decoder_width=8, decoder_depth=1, decoder_heads=2)
        return cls.from_config(sizes | model, dict(teacher=teacher, **decoder))

    @property
    def decoder(self) -> TaskVit:
        sizes = (self.model.grid, self.model.code_width, (1, 1), self.decoder_width, self.decoder_depth)
        settings: dict[str, Any] = dict(positions="learned", qkv_bias="qv", init="vqkd", precision=self.model.precision)
        config = VitConfig(*sizes, self.decoder_heads, **settings)
        return TaskVit(config, self.teacher.width, config.dtype)

    def tokenizer(self, params: Tree, extra: Tree) -> Tree:
        """What `tokenize` takes; frozen in the methods that predict tokens."""
        return {"encoder": params["encoder"], "codebook": extra["codebook"]}

    def init(self, key, batch) -> Variables:
        keys, vectors = jax.random.split(key, 4), jnp.zeros((1, *self.model.grid, self.model.code_width))
        made = tokenizer_init(self.model, keys[0])
        params = {"encoder": made["encoder"], **start(keys[1], decoder=(self.decoder, vectors))}
        if self.start == "kmeans":
            found = encode_images(self.model, params["encoder"], batch["image"])[1]
            found = found.reshape(-1, self.model.code_width)
            made["codebook"] = spherical_kmeans(found, start_ids(keys[2], len(found), self.model.vocabulary))
        extra = {"codebook": made["codebook"], "usage": jnp.zeros(self.model.vocabulary)}
        return Variables(params=params, extra=extra, frozen=self.teacher.start(keys[3]))

    def draw(self, params, extra, frozen, batch, key, progress):
        return {}

    def forward(self, params, extra, frozen, batch, draws, progress):
        config, images, codes = self.model, batch["image"], extra["codebook"]
        latent, outputs = encode_images(config, params["encoder"], images)
        tokens = quantizer.nearest_code(jax.lax.stop_gradient(outputs), codes)
        vectors = quantizer.straight_through(outputs, codes[tokens])
        grid = vectors.reshape(len(images), *config.grid, -1)
        pred = self.decoder.apply({"params": params["decoder"]}, grid)[1].reshape(*tokens.shape, -1)
        target = self.teacher.tokens(frozen, batch["teacher"])[:, -tokens.shape[1] :]
        error = cosine_error(pred, target)
        distance = jnp.square(codes[tokens] - outputs).mean()
        terms = {"features": error.mean(), "commitment": self.commitment * distance}
        counts, sums = quantizer.assignments(jax.lax.stop_gradient(outputs), tokens, config.vocabulary)
        used, perplexity = quantizer.usage(counts)
        metrics = {"codes_used": used, "perplexity": perplexity}
        trace = dict(latent=latent, outputs=outputs, tokens=tokens, vectors=vectors, pred=pred, target=target)
        carry, trace = dict(counts=counts, sums=sums), trace | dict(error=error)
        return sum(terms.values()), Output(terms, metrics, jnp.float32(len(images)), carry, trace)

    def update(self, extra, params, output, progress):
        counts, sums = (output.carry[name] * output.weight for name in ("counts", "sums"))
        decay = self.codebook_decay
        codes = quantizer.follow_codes(extra["codebook"], counts, sums, decay)
        return {"codebook": codes, "usage": decay * extra["usage"] + (1.0 - decay) * counts}

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        features, _ = encode_images(self.model, params["encoder"], images)
        grid = (images.shape[1] // self.model.stride, images.shape[2] // self.model.stride)
        return Features(None, features, features.mean(1), (features,) if layers else (), grid)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        t = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        hidden = jnp.zeros(t["tokens"].shape, bool)
        arrays = (t["pred"], t["target"], t["error"])
        drawn = direction_pictures(batch["image"], (self.model.stride,) * 2, hidden, *arrays)
        panels = {name: panel for name, panel in drawn.panels.items() if name != "masked"}
        return drawn.replace(panels=panels | {"tokens": token_colours(self.model, t["tokens"])}, unit=("tokens",))

    def param_groups(self) -> ParamGroups:
        return ParamGroups(depth=0, no_decay=(r"vit/cls_token$", r"vit/pos_embed$"))

    def flops(self) -> float:
        decoder = task_vit_flops(self.decoder.config, self.teacher.width)
        codes = self.model.tokens_per_image * self.model.vocabulary * (2.0 * self.model.code_width + 12.0)
        return 3 * (encoder_flops(self.model) + decoder) + codes + self.teacher.flops()
