"""Image tokenizers trained from scratch: VQ-VAE (van den Oord, Vinyals, Kavukcuoglu. NeurIPS 2017) and the discrete
VAE of DALL-E (Ramesh et al. ICML 2021), for the methods that predict tokens.

Hidden: nothing. Predicted: the pixels, through a bottleneck of one token per cell of a grid. By whom: a convolutional
encoder and decoder, between them the nearest of a set of codes that follow their vectors by moving averages (vq), or a
relaxed sample of a categorical distribution (dvae). Error: of the pixels, plus commitment (vq) or KL (dvae).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.discrete import gumbel_softmax, uniform_divergence
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Tree, Variables, ViewShape
from mim_jax.methods.building import section
from mim_jax.models.tokenizer import (
    TokenizerConfig,
    decode_vectors,
    detokenize,
    encode_images,
    token_colours,
    tokenize,
    tokenizer_init,
    training_flops,
)
from mim_jax.nn import vector_quantizer as quantizer
from mim_jax.nn.ema import cosine_ramp, linear_ramp

ERRORS = {"l2": jnp.square, "l1": jnp.abs}


@dataclasses.dataclass(frozen=True)
class Tokenizer(Method):
    """Trains a tokenizer of kind vq or dvae; `model` holds its architecture."""

    name: ClassVar[str] = "tokenizer"
    masks: ClassVar[bool] = False

    model: TokenizerConfig = TokenizerConfig(kind="vq")
    reconstruction: str = "l2"  # l2 | l1: mean over the values of an image in [0, 1]
    commitment: float = 0.25  # vq: weight of the vectors' squared distance from their codes, mean over values
    codebook_decay: float = 0.99  # vq: of the moving averages
    split_below: float = 0.2  # vq: codes with less than this share of the mean use are placed anew; 0: never
    temperature: tuple[float, float] = (1.0, 0.0625)  # dvae: of the samples, at the start and the end (half a cosine)
    temperature_share: float = 0.9  # dvae: share of the run after which the temperature stays
    hard: bool = False  # dvae: one-hot samples forward, with the relaxed samples' gradient
    kl_weight: float = 0.0  # dvae: of the KL divergence from uniform, summed over tokens, per value of the image
    kl_share: float = 0.1  # dvae: share of the run over which the weight rises from 0, straight

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> Tokenizer:
        config = TokenizerConfig.from_section(section(TokenizerConfig, model, "model"), "model")
        made = cls(model=config, **section(cls, method, "method"))
        if config.kind not in ("vq", "dvae") or config.source:
            raise ConfigError("model.kind 'dalle' and model.source are for frozen tokenizers; train kind vq or dvae")
        check_choices(made, "method", reconstruction=ERRORS)
        for key in ("codebook_decay", "split_below", "temperature_share", "kl_share"):
            if not 0 <= getattr(made, key) <= 1:
                raise ConfigError(f"method.{key} {getattr(made, key)} must be between 0 and 1")
        if len(made.temperature) != 2 or min(made.temperature) <= 0 or min(made.commitment, made.kl_weight) < 0:
            names = "method.commitment and method.kl_weight must not be negative"
            raise ConfigError(f"{names}, and method.temperature {made.temperature} must be two positive numbers")
        return made

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> Tokenizer:
        sizes = dict(image_size=image_size, channels=channels, stride=4, hidden=8)
        return cls.from_config(dict(kind="vq", vocabulary=16, code_width=4) | sizes | model, {})

    def views(self) -> dict[str, ViewShape]:
        # Normalised by the mean 0 and deviation 1 of the configs: [0, 1], at evaluation too.
        return {"image": ViewShape(self.model.image_size, self.model.channels)}

    def tokenizer(self, params: Tree, extra: Tree) -> Tree:
        """What `tokenize` and `detokenize` take; frozen in the methods that predict tokens."""
        return {**params, "codebook": extra["codebook"].vectors} if self.model.kind == "vq" else params

    def init(self, key, batch) -> Variables:
        params = tokenizer_init(self.model, key)
        if self.model.kind != "vq":
            return Variables(params=params)
        return Variables(params=params, extra={"codebook": quantizer.start_codebook(params.pop("codebook"))})

    def draw(self, params, extra, frozen, batch, key, progress):
        if self.model.kind == "vq":
            return {}
        shape = (len(batch["image"]), self.model.tokens_per_image, self.model.vocabulary)
        return {"gumbel": jax.random.gumbel(key, shape)}

    def forward(self, params, extra, frozen, batch, draws, progress):
        config, images = self.model, batch["image"]
        latent, outputs = encode_images(config, params["encoder"], images)
        if config.kind == "vq":
            codes = extra["codebook"].vectors
            tokens = quantizer.nearest_code(jax.lax.stop_gradient(outputs), codes)
            vectors = quantizer.straight_through(outputs, codes[tokens])
            distance = jnp.square(outputs - codes[tokens]).mean()
            terms = {"commitment": self.commitment * distance}
            counts, sums = quantizer.assignments(jax.lax.stop_gradient(outputs), tokens, config.vocabulary)
            carry = dict(counts=counts, sums=sums, distance=distance)
        else:
            share = 1.0 if progress is None else progress.step / progress.total_steps
            heat = cosine_ramp(*self.temperature, share / max(self.temperature_share, 1e-6))
            samples = gumbel_softmax(outputs, draws["gumbel"], heat, self.hard)
            tokens, vectors = outputs.argmax(-1), samples @ params["codebook"]
            weight = linear_ramp(0.0, self.kl_weight, share / max(self.kl_share, 1e-6))
            terms = {"kl": weight * uniform_divergence(outputs).sum(-1).mean() / images[0].size}
            counts, carry = jax.nn.one_hot(tokens, config.vocabulary).sum((0, 1)), None
        pred = decode_vectors(config, params["decoder"], vectors)
        terms = {"reconstruction": ERRORS[self.reconstruction](pred - images).mean(), **terms}
        used, perplexity = quantizer.usage(counts)
        metrics = {"mse": jnp.square(pred - images).mean(), "codes_used": used, "perplexity": perplexity}
        trace = dict(latent=latent, outputs=outputs, tokens=tokens, vectors=vectors, pred=pred, target=images)
        return sum(terms.values()), Output(terms, metrics, jnp.float32(len(images)), carry, trace)

    def update(self, extra, params, output, progress):
        if self.model.kind != "vq":
            return extra
        cosine, carry = self.model.distance == "cosine", output.carry
        counts, sums = carry["counts"] * output.weight, carry["sums"] * output.weight
        book = quantizer.move_codebook(extra["codebook"], counts, sums, self.codebook_decay, cosine=cosine)
        if self.split_below:
            book = quantizer.split_codes(
                book, self.split_below, 0.1 * jnp.sqrt(carry["distance"]), progress.step, cosine
            )
        return {"codebook": book}

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        features, _ = encode_images(self.model, params["encoder"], images)
        grid = (images.shape[1] // self.model.stride, images.shape[2] // self.model.stride)
        return Features(None, features, features.mean(1), (features,) if layers else (), grid)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        images, tree = batch["image"], self.tokenizer(params, extra)
        tokens = tokenize(self.model, tree, images)
        seen = detokenize(self.model, tree, tokens)
        panels = {"input": images, "reconstruction": seen, "tokens": token_colours(self.model, tokens)}
        return Pictures(panels, {"error": jnp.abs(seen - images).mean(-1)})

    def param_groups(self) -> ParamGroups:
        return ParamGroups(depth=0, no_decay=(r"^codebook$",) if self.model.kind == "dvae" else ())

    def flops(self) -> float:
        return training_flops(self.model)
