"""What both forms of LocalMIM (Wang et al. CVPR 2023) share: an encoder whose depths, the taps, each have a decoder of
their own that predicts at a scale of its own, and the errors of what is hidden of each scale added up."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError
from mim_jax.losses.masked import squared_error, weighted_mean
from mim_jax.masking.mask import Mask
from mim_jax.masking.scales import hidden_share
from mim_jax.methods.base import Features, Output, Pictures, Progress, Variables
from mim_jax.methods.building import start
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.methods.pictures import patch_pictures
from mim_jax.nn.patches import patchify
from mim_jax.targets.hog import glyphs, hog
from mim_jax.targets.patch_values import patch_pixels, patch_target


@dataclasses.dataclass(frozen=True)
class LocalReconstruction(MaskedAutoencoder):
    """Local multi-scale reconstruction with any encoder."""

    name: ClassVar[str] = "localmim"
    targets: ClassVar[tuple[str, ...]] = ("hog",)

    target: str = "hog"
    decoder_depth: int = 1
    hog_bins: int = 9
    # The authors' switch: each scale's two gradients get a constant, drawn once and never changed.
    hog_bias: bool = False

    @property
    @abc.abstractmethod
    def doublings(self) -> tuple[int, ...]:
        """Tap by tap, how often the rows and columns of the mask's grid are doubled; -1: halved."""

    @property
    @abc.abstractmethod
    def cell(self) -> tuple[int, int]:
        """(height, width) of a cell of the mask's grid, in pixels."""

    @property
    @abc.abstractmethod
    def tap_shapes(self) -> tuple[tuple[int, int], ...]:
        """(tokens, width) of every tap in training."""

    @abc.abstractmethod
    def latents(self, params, images, **shown) -> tuple[Float[Array, "B _ _"], ...]:
        """Normalised outputs of the taps. shown: what the encoder is to see of the images; nothing: all of them."""

    @abc.abstractmethod
    def shown(self, draws) -> dict[str, Any]:
        """What the encoder is to see, for `latents`."""

    @abc.abstractmethod
    def decoders(self) -> dict[str, Any]:
        """The taps' decoders, the first tap's first."""

    def tap_mask(self, mask: Mask, tap: int) -> Mask:
        """The mask as the decoder of a tap takes it."""
        return mask

    @property
    def drawn(self) -> int:
        """The tap that is drawn: the last whose cells are those of the mask."""
        return max(tap for tap, doublings in enumerate(self.doublings) if doublings == 0)

    def tap_cell(self, tap: int) -> tuple[int, int]:
        """(height, width) of what a tap predicts at each place, in pixels."""
        height, width = (int(side / 2.0 ** self.doublings[tap]) for side in self.cell)
        return height, width

    def tap_outputs(self, tap: int) -> int:
        """Values predicted for a cell of a tap."""
        height, width = self.tap_cell(tap)
        return self.model.channels * (self.hog_bins if self.target == "hog" else height * width)

    def check(self) -> None:
        super().check()
        if self.hog_bins < 1 or self.decoder_width % 4:
            raise ConfigError(f"method.hog_bins {self.hog_bins} must be positive, decoder_width a multiple of 4")

    def init(self, key, batch) -> Variables:
        (encoder, norms), (key, bias_key) = self.modules(), jax.random.split(key)
        mask, taps = self.mask(key, 1), tuple(jnp.zeros((1, *shape)) for shape in self.tap_shapes)
        decoders = enumerate(self.decoders().items())
        parts = {name: (module, taps[tap], self.tap_mask(mask, tap)) for tap, (name, module) in decoders}
        params = start(key, encoder=(encoder, batch["image"][:1]), norms=(norms, taps), **parts)
        bias = jax.random.uniform(bias_key, (len(taps), 2), minval=-1 / 3, maxval=1 / 3)
        return Variables(params=params, frozen={"hog_bias": bias} if self.hog_bias else {})

    def values(self, images, frozen, tap: int) -> Float[Array, "B C V"]:
        """What a tap is to predict: histograms of its cells, channel by channel, or their pixels."""
        if self.target != "hog":
            return patch_target(self.target, patchify(images, self.tap_cell(tap)))
        offset = frozen["hog_bias"][tap] if self.hog_bias else None
        found = hog(images, self.tap_cell(tap), self.hog_bins, offset=offset)
        return einops.rearrange(found, "b h w c k -> b (h w) (c k)")

    def forward(self, params, extra, frozen, batch, draws, progress):
        images, mask = batch["image"], draws["mask"]
        latents = self.latents(params, images, **self.shown(draws))
        terms, found = {}, {}
        for tap, (name, decoder) in enumerate(self.decoders().items()):
            prediction = decoder.apply({"params": params[name]}, latents[tap], self.tap_mask(mask, tap))
            target, share = self.values(images, frozen, tap), hidden_share(mask, self.doublings[tap])
            terms[f"tap_{tap}"] = weighted_mean(squared_error(prediction, target), share)
            found[tap] = dict(latent=latents[tap], pred=prediction, target=target, share=share)
        trace = {f"{key}{tap}": value for tap, parts in found.items() for key, value in parts.items()}
        trace |= dict(mask=mask, latent=latents[-1], pred=found[self.drawn]["pred"], target=found[self.drawn]["target"])
        hidden = jnp.sum(mask.hidden.astype(jnp.float32))  # every scale counts in proportion to it
        return sum(terms.values()), Output(terms=terms, weight=hidden, trace=trace)

    def whole(self, params, images, features: Features) -> Features:
        """An encoder's features with the tokens of whole images normalised by the last tap's norm."""
        last = self.latents(params, images)[-1].astype(jnp.float32)
        prefix = last.shape[1] - features.patches.shape[1]
        cls, patches = last[:, 0] if prefix else None, last[:, prefix:]
        return features.replace(cls=cls, patches=patches, pooled=patches.mean(1))

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        images, size = batch["image"], self.cell
        trace = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        truth, mask = patchify(images, size), trace["mask"]
        if self.target != "hog":
            pixels = patch_pixels(self.target, trace["pred"], truth)
            return patch_pictures(images, pixels, mask.hidden, size, self.target == "norm_pix")
        panels = patch_pictures(images, truth, mask.hidden, size).panels
        drawn = {"HOG of the patches": trace["target"], "predicted HOG": trace["pred"]}
        maps = {k: glyphs(v, mask.grid, (1, 1), self.model.channels) for k, v in drawn.items()}
        return Pictures({k: panels[k] for k in ("input", "masked")}, maps)
