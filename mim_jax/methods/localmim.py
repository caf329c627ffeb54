"""LocalMIM: Masked Image Modeling with Local Multi-Scale Reconstruction (Wang, Tang, Wang, Guo, Deng, Han. CVPR 2023).

Hidden: 75 % of the patches, at random, dropped. Predicted: histograms of oriented gradients in cells of a quarter, a
half, one and two patches a side. By whom: MAE's encoder, and at four of its depths a small decoder, the finest scale at
the shallowest. Error: mean square over what is hidden of each scale, added up. Lower layers are trained by losses of
their own.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError
from mim_jax.losses.masked import squared_error, weighted_mean
from mim_jax.masking.scales import hidden_share
from mim_jax.methods.base import Features, Output, Pictures, Progress, Variables
from mim_jax.methods.building import start
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.methods.pictures import patch_pictures
from mim_jax.methods.transformers import vit_features
from mim_jax.models.local_decoder import LocalDecoder, TapNorms, local_decoder_flops
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.nn.patches import patchify
from mim_jax.targets.hog import glyphs, hog

DOUBLINGS = (2, 1, 0, -1)  # of the grid of patches, tap by tap
SAME = DOUBLINGS.index(0)  # the tap whose cells are the patches


@dataclasses.dataclass(frozen=True)
class LocalMIM(MaskedAutoencoder):
    """Local multi-scale reconstruction of a ViT; the defaults are those of ViT-B/16."""

    name: ClassVar[str] = "localmim"
    targets: ClassVar[tuple[str, ...]] = ("hog",)

    target: str = "hog"
    decoder_width: int = 256
    decoder_depth: int = 1
    decoder_heads: int = 8
    taps: tuple[int, ...] = ()  # blocks, from 0; (): 1, 3, depth - 3, depth - 1
    hog_bins: int = 9  # 18 for ViT-L
    # The authors' switch for ViT-L: each scale's two gradients get a constant, drawn once and never changed.
    hog_bias: bool = False

    def check(self) -> None:
        super().check()
        depth, taps = self.model.depth, self.blocks
        if len(taps) != len(DOUBLINGS) or list(taps) != sorted(taps) or not 0 <= taps[0] <= taps[-1] < depth:
            raise ConfigError(f"method.taps {taps} must be {len(DOUBLINGS)} rising numbers of blocks below {depth}")
        if any(side % 4 for side in self.model.patch_size) or any(side % 2 for side in self.model.grid):
            raise ConfigError(
                f"model.patch_size {self.model.patch_size} must be multiples of 4 and the grid of patches "
                f"{self.model.grid} even; LocalMIM has cells of a quarter and of two patches a side"
            )
        if self.hog_bins < 1 or self.decoder_width % 4:
            raise ConfigError(f"method.hog_bins {self.hog_bins} must be positive, decoder_width a multiple of 4")

    @classmethod
    def tiny_settings(cls, image_size, channels):
        return dict(taps=(0, 0, 1, 1), hog_bins=5)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks whose outputs are decoded."""
        return self.taps or (1, 3, self.model.depth - 3, self.model.depth - 1)

    @property
    def outputs(self) -> int:
        return self.model.channels * self.hog_bins

    def modules(self) -> tuple[Vit, TapNorms]:
        return Vit(self.model, final_norm=False), TapNorms(self.model.dtype, self.model.layer_norm_eps)

    def decoders(self) -> dict[str, LocalDecoder]:
        sizes = (self.decoder_width, self.decoder_stack, self.outputs)
        return {f"decoder_{i}": LocalDecoder(*sizes, n, self.model.prefix) for i, n in enumerate(DOUBLINGS)}

    def init(self, key, batch) -> Variables:
        (encoder, norms), (key, bias_key) = self.modules(), jax.random.split(key)
        latent, mask = jnp.zeros((1, self.model.prefix + self.seen, self.model.width)), self.mask(key, 1)
        taps = (latent,) * len(DOUBLINGS)
        parts = {name: (module, latent, mask) for name, module in self.decoders().items()}
        params = start(key, encoder=(encoder, batch["image"][:1]), norms=(norms, taps), **parts)
        bias = jax.random.uniform(bias_key, (len(DOUBLINGS), 2), minval=-1 / 3, maxval=1 / 3)
        return Variables(params=params, frozen={"hog_bias": bias} if self.hog_bias else {})

    def latents(self, params, images, **shown) -> tuple[Float[Array, "B T D"], ...]:
        """Normalised outputs of the taps."""
        encoder, norms = self.modules()
        outputs: Any = encoder.apply({"params": params["encoder"]}, images, layers=True, **shown)[1]
        found: Any = norms.apply({"params": params["norms"]}, tuple(outputs[i] for i in self.blocks))
        return found

    def values(self, images, frozen, tap: int) -> Float[Array, "B C V"]:
        """Histograms of a tap's cells, channel by channel."""
        height, width = (int(side / 2.0 ** DOUBLINGS[tap]) for side in self.model.patch_size)
        offset = frozen["hog_bias"][tap] if self.hog_bias else None
        found = hog(images, (height, width), self.hog_bins, offset=offset)
        return einops.rearrange(found, "b h w c k -> b (h w) (c k)")

    def forward(self, params, extra, frozen, batch, draws, progress):
        images, mask = batch["image"], draws["mask"]
        latents = self.latents(params, images, visible=mask.visible, noise=draws["drop_path"])
        terms: dict[str, Any] = {}
        found: dict[int, dict[str, Any]] = {}
        for tap, (name, decoder) in enumerate(self.decoders().items()):
            prediction = decoder.apply({"params": params[name]}, latents[tap], mask)
            target, share = self.values(images, frozen, tap), hidden_share(mask, DOUBLINGS[tap])
            terms[f"tap_{tap}"] = weighted_mean(squared_error(prediction, target), share)
            found[tap] = dict(latent=latents[tap], pred=prediction, target=target, share=share)
        trace = {f"{key}{tap}": value for tap, parts in found.items() for key, value in parts.items()}
        trace |= dict(mask=mask, latent=latents[-1], pred=found[SAME]["pred"], target=found[SAME]["target"])
        hidden = jnp.sum(mask.hidden.astype(jnp.float32))  # every scale counts in proportion to it
        return sum(terms.values()), Output(terms=terms, weight=hidden, trace=trace)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        """Normalised by the last tap's norm."""
        encoder, _ = self.modules()
        features = vit_features(encoder, params["encoder"], images, layers)
        last = self.latents(params, images)[-1].astype(jnp.float32)
        cls, patches = last[:, 0] if self.model.prefix else None, last[:, self.model.prefix :]
        return features.replace(cls=cls, patches=patches, pooled=patches.mean(1))

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        images, size = batch["image"], self.model.patch_size
        trace = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        pictures = patch_pictures(images, patchify(images, size), trace["mask"].hidden, size)
        drawn = {"HOG of the patches": trace["target"], "predicted HOG": trace["pred"]}
        maps = {k: glyphs(v, self.model.grid, (1, 1), self.model.channels) for k, v in drawn.items()}
        return Pictures({k: pictures.panels[k] for k in ("input", "masked")}, maps)

    def flops(self) -> float:
        sizes = (self.seen, self.model.tokens, self.model.width, self.decoder_width, self.decoder_stack, self.outputs)
        return 3 * (vit_flops(self.model, self.seen) + sum(local_decoder_flops(*sizes, n) for n in DOUBLINGS))
