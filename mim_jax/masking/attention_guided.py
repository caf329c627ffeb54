"""Hides what a teacher attends to most, or least (AttMask, Kakogeorgiou et al. ECCV 2022, section 3.2)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mim_jax.errors import ConfigError

MODES = ("high", "hint", "low")
Count = int | Int[Array, ""] | Int[Array, "B"]  # one for all, or one for each


def most_attended(attention: Float[Array, "B N"], count: Count, least: bool = False) -> Bool[Array, "B N"]:
    """The `count` patches with the highest attention, or the lowest; among equals the first in raster order."""
    order = jnp.argsort(attention if least else -attention, axis=1, stable=True)
    return jnp.argsort(order, axis=1) < jnp.reshape(jnp.asarray(count), (-1, 1))


def some_of(noise: Float[Array, "B N"], among: Bool[Array, "B N"], count: Count) -> Bool[Array, "B N"]:
    """`count` patches of those in `among`: the ones with the smallest noise. All of them, and none else, where they are
    fewer."""
    return among & most_attended(jnp.where(among, noise, jnp.inf), count, least=True)


@dataclasses.dataclass(frozen=True)
class AttentionGuided:
    """What AttMask hides of an image whose teacher's attention is known.

    mode: high (the most attended) | hint (these, but some of them are shown) | low (the least attended).
    ratio, spread: the share that is hidden is drawn uniformly from ratio - spread to ratio + spread.
    masked_share: of the images of which anything is hidden. hint_share: what hints are drawn from: so large a share of
    the patches, the most attended; a share of these as large as a second ratio is shown.
    group: consecutive images that have their ratios in common; 0: all.
    """

    mode: str = "high"
    ratio: float = 0.3
    spread: float = 0.2
    masked_share: float = 0.5
    hint_share: float = 0.1
    group: int = 0

    def check(self, tokens: int) -> None:
        """Refuses what hides nothing or cannot be drawn.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """
        if self.mode not in MODES:
            raise ConfigError(f"method.masking '{self.mode}' is not one of {', '.join(MODES)}")
        if not 0 < self.ratio < 1:
            raise ConfigError(f"method.mask_ratio {self.ratio} must lie between 0 and 1 (both excluded), such as 0.3")
        most = min(self.ratio, 1 - self.ratio)
        if not 0 <= self.spread <= most:
            raise ConfigError(
                f"method.mask_ratio_spread {self.spread} around the ratio {self.ratio} must be at least 0 and stay "
                f"within 0 and 1; the largest is {most:g}"
            )
        if (self.ratio + self.spread) * tokens < 1:
            raise ConfigError(
                f"method.mask_ratio {self.ratio} never hides one of {tokens} patches; take {1 / tokens:.3g} or more"
            )
        for key, share in (("masked_share", self.masked_share), ("hint_share", self.hint_share)):
            if not 0 < share <= 1:
                raise ConfigError(f"method.{key} {share} must be above 0 and at most 1")
        if self.mode == "hint" and int(tokens * self.hint_share) < 1:
            raise ConfigError(
                f"method.hint_share {self.hint_share} of {tokens} patches is none; take {1 / tokens:.3g} or more"
            )
        if self.group < 0:
            raise ConfigError(f"method.mask_group {self.group} must be a number of images, or 0 for the whole batch")

    def hidden(
        self,
        attention: Float[Array, "B N"],
        uniforms: Float[Array, "B"],
        noise: Float[Array, "B N"],
        count: Count,
        shown: Count,
    ) -> Bool[Array, "B N"]:
        """What is hidden, for given draws.

        uniforms: an image with a larger one than `masked_share` hides nothing. noise: says which hints are shown, the
        smallest first. count, shown: numbers of patches to hide and, of hints, to show after all.

        Pitfall: hints are drawn from the most attended patches whether these are hidden or not, so that an image may
        show fewer of those that would be hidden.
        """
        hidden = most_attended(attention, count, least=self.mode == "low") & (uniforms <= self.masked_share)[:, None]
        if self.mode != "hint":
            return hidden
        hints = most_attended(attention, int(attention.shape[1] * self.hint_share))
        return hidden & ~some_of(noise, hints, shown)

    def draw(
        self, key: PRNGKeyArray, attention: Float[Array, "B S N"], share: float | Float[Array, ""] = 1.0
    ) -> Bool[Array, "B S N"]:
        """What is hidden of each of S crops of every image. share: multiplies the ratios; 0 hides nothing.

        The ratios belong to a group of images, everything else to a crop. The second ratio, which says how many hints
        are shown, is independent of the first, as in the authors' code.
        """
        batch, crops, tokens = attention.shape
        ratio_key, uniform_key, noise_key = jax.random.split(key, 3)
        size = self.group or batch
        spread = jax.random.uniform(ratio_key, (2, -(-batch // size)), minval=-self.spread, maxval=self.spread)
        ratios = (self.ratio + spread) * share
        first, second = jnp.repeat(jnp.repeat(ratios, size, axis=1)[:, :batch], crops, axis=1)
        counts = (jnp.floor(x).astype(jnp.int32) for x in (first * tokens, second * self.hint_share * tokens))
        uniforms = jax.random.uniform(uniform_key, (batch * crops,))
        noise = jax.random.uniform(noise_key, (batch * crops, tokens))
        return self.hidden(attention.reshape(-1, tokens), uniforms, noise, *counts).reshape(attention.shape)
