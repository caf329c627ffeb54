"""Small decoders that predict at another scale than the patches (LocalMIM, Wang et al. CVPR 2023, section 3.2)."""

from __future__ import annotations

import einops
import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.masking.mask import Mask
from mim_jax.models.mae_decoder import decoder_tokens
from mim_jax.nn import flops
from mim_jax.nn.block import StackConfig, run_blocks
from mim_jax.nn.init import fan_in_uniform
from mim_jax.nn.mlp import gelu
from mim_jax.nn.norms import layer_norm


class Double(nn.Module):
    """Twice the rows and columns by a transposed convolution of kernel and stride 2: a linear map of every position."""

    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B _ _ E"]:
        start = fan_in_uniform(4 * self.width)  # PyTorch's default takes the outputs of a transposed kernel for inputs
        kernel = self.param("kernel", start, (x.shape[-1], 4 * self.width))
        bias = self.param("bias", start, (self.width,))
        x = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return einops.rearrange(x, "b h w (p q d) -> b (h p) (w q) d", p=2, q=2) + bias.astype(self.dtype)


class TapNorms(nn.Module):
    """A layer norm for every tap."""

    dtype: Dtype = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, taps: tuple[Float[Array, "B _ _"], ...]) -> tuple[Float[Array, "B _ _"], ...]:
        return tuple(layer_norm(f"norm_{i}", self.dtype, self.epsilon)(x) for i, x in enumerate(taps))


class LocalDecoder(nn.Module):
    """MAE's decoder up to its norm, then the grid at another scale, then a 1x1 convolution.

    doublings: how often rows and columns are doubled; -1 halves them by the mean of four.
    """

    width: int
    stack: StackConfig
    outputs: int
    doublings: int
    prefix: int = 1

    @nn.compact
    def __call__(self, latent: Float[Array, "B T E"], mask: Mask) -> Float[Array, "B C P"]:
        """Predictions for all cells of the scale in raster order, float32."""
        dtype = self.stack.dtype
        x = decoder_tokens(self, latent, mask, self.width, dtype, prefix=self.prefix)
        x, _ = run_blocks(self, self.stack, x)
        x = layer_norm("norm", dtype, self.stack.layer_norm_eps)(x)[:, self.prefix :]
        x = einops.rearrange(x, "b (h w) d -> b h w d", h=mask.grid[0])
        if self.doublings < 0:
            x = einops.reduce(x, "b (h p) (w q) d -> b h w d", "mean", p=2, q=2)
        for i in range(max(self.doublings, 0)):
            x = gelu(layer_norm(f"up_norm_{i}", dtype, self.stack.layer_norm_eps)(x)) if i else x
            x = Double(self.width // 2 ** (i + 1), dtype, name=f"up_{i}")(x)
        start = fan_in_uniform(x.shape[-1])
        x = nn.Dense(self.outputs, dtype=dtype, kernel_init=start, bias_init=start, name="head")(x)
        return einops.rearrange(x, "b h w p -> b (h w) p").astype(jnp.float32)


def local_decoder_flops(
    visible: int, tokens: int, width_in: int, width: int, stack: StackConfig, outputs: int, doublings: int
) -> float:
    """Forward FLOPs for one image; the cls token passes the blocks."""
    total = flops.dense(visible + 1, width_in, width) + flops.stack(stack, tokens + 1, width) + 8 * tokens * width
    places, inside = float(tokens), width
    for i in range(max(doublings, 0)):
        total += 20 * places * inside if i else 0.0
        total += flops.dense(places, inside, 4 * (width // 2 ** (i + 1)))
        places, inside = 4 * places, width // 2 ** (i + 1)
    places = places / 4 if doublings < 0 else places
    return total + flops.dense(places, inside, outputs)
