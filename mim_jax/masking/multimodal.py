"""A fixed number of visible tokens, divided among the modalities of an image (MultiMAE, Bachmann et al. ECCV 2022)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mim_jax.errors import ConfigError

SMALL = 1e-5  # concentration of a modality that is not chosen


class MultimodalMask(struct.PyTreeNode):
    """visible: Int[B, V], numbers of the visible tokens among those of all modalities, in the order in which they are
    seen. restore: Int[B, M * N], where each token lies in that order with the hidden ones behind.
    """

    visible: Any
    restore: Any

    def hidden(self, modalities: int) -> Bool[Array, "M B N"]:
        """True where a token is hidden, by modality."""
        behind = self.restore >= self.visible.shape[1]
        return jnp.moveaxis(behind.reshape(len(behind), modalities, -1), 1, 0)


def multimodal_mask(
    key: PRNGKeyArray,
    batch: int,
    modalities: int,
    tokens: int,
    visible: int,
    concentration: int | float | tuple[int | float, ...] = 1.0,
    subsets: bool = False,
) -> MultimodalMask:
    """Shares from a Dirichlet distribution, then tokens at random (section 3.2).

    tokens: of each modality. concentration: of all modalities, or of each; the smaller, the less even are the shares.
    subsets: first choose some of the modalities, every choice but none equally often, and divide among these.
    """
    keys = jax.random.split(key, 4)
    alphas = jnp.broadcast_to(jnp.asarray(concentration, jnp.float32), (batch, modalities))
    if subsets:
        chosen = jax.random.randint(keys[3], (batch, 1), 1, 2**modalities)
        alphas = alphas * (chosen >> jnp.arange(modalities) & 1) + SMALL
    shares = jax.random.dirichlet(keys[0], alphas, (batch,))
    noise = jax.random.uniform(keys[1], (batch, modalities, tokens))
    return mask_from_shares(shares, noise, jax.random.uniform(keys[2], (batch, modalities * tokens)), visible)[0]


def mask_from_shares(
    shares: Float[Array, "B M"], noise: Float[Array, "B M N"], order: Float[Array, "B L"], visible: int
) -> tuple[MultimodalMask, Array]:
    """The mask, and how many tokens each modality was to show.

    That number is the share of `visible`, rounded to the nearest, halves to the even number; so the numbers need not
    add up. Tokens of which too many would be visible are dropped at random by `order`, and those that lack are taken
    from the others in the same way. Which tokens of a modality are meant follows from the permutation that sorts its
    noise, not from the ranks, as in the original.
    """
    counts = jnp.round(shares * visible).astype(int)
    hide = jnp.argsort(noise, axis=-1, stable=True) >= counts[..., None]
    shuffle = jnp.argsort(hide.reshape(len(hide), -1) + order, axis=1, stable=True)
    return MultimodalMask(shuffle[:, :visible], jnp.argsort(shuffle, axis=1)), counts


def check_tokens(visible: int, tokens: int, global_tokens: int) -> None:
    """Refuses a number of visible tokens that leaves nothing hidden or nothing visible of `tokens`.

    Raises:
        ConfigError: names the key and what serves.
    """
    if not 0 < visible < tokens:
        raise ConfigError(f"method.visible_tokens {visible} must be between 1 and {tokens - 1} of {tokens} tokens")
    if global_tokens < 1:
        raise ConfigError(f"method.global_tokens {global_tokens} must be at least 1")


def check_concentration(concentration: int | float | tuple[int | float, ...], modalities: int) -> None:
    """Refuses a Dirichlet distribution that there is not.

    Raises:
        ConfigError: names the key and what serves.
    """
    alphas = concentration if isinstance(concentration, tuple) else (concentration,) * modalities
    if len(alphas) != modalities or min(alphas) <= 0:
        raise ConfigError(
            f"method.concentration {concentration} must be positive, one for all or for each of {modalities} inputs"
        )
