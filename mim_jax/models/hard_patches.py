"""HPM's two decoders: one reconstructs, the other says how well that will go (Wang et al. CVPR 2023, section 3.2)."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from mim_jax.masking.mask import Mask
from mim_jax.models.mae_decoder import decoder_output, decoder_tokens, mae_decoder_flops
from mim_jax.nn import flops
from mim_jax.nn.block import StackConfig


class Trunk(nn.Module):
    """Blocks, norm and head of a decoder behind tokens that it shares with another."""

    stack: StackConfig
    outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "B S W"]) -> Float[Array, "B N P"]:
        return decoder_output(self, self.stack, self.outputs, x)


class ReconstructAndScore(nn.Module):
    """One linear layer and one mask token, then a reconstructor and a predictor of its errors side by side.

    The predictor's head has as many outputs as a patch has pixels; their mean is the score (the original code).
    """

    width: int
    stack: StackConfig
    outputs: int
    score_outputs: int
    row_first: bool = False

    @nn.compact
    def __call__(
        self, latent: Float[Array, "B T E"], mask: Mask, scores_only: bool = False
    ) -> tuple[Float[Array, "B N P"] | None, Float[Array, "B N"]]:
        """Reconstruction and score of every patch in raster order, float32; latent: see `decoder_tokens`."""
        x = decoder_tokens(self, latent, mask, self.width, self.stack.dtype, self.row_first)
        prediction = None if scores_only else Trunk(self.stack, self.outputs, name="reconstructor")(x)
        return prediction, Trunk(self.stack, self.score_outputs, name="predictor")(x).mean(-1)


def scoring_flops(visible: int, tokens: int, width_in: int, decoder: ReconstructAndScore, both: bool = True) -> float:
    """Forward FLOPs for one image; both: the reconstructor too."""
    sizes = (visible, tokens, width_in, decoder.width)
    total = mae_decoder_flops(*sizes, decoder.stack, decoder.score_outputs)
    if both:
        embed = flops.dense(visible + 1, width_in, decoder.width)  # shared
        total += mae_decoder_flops(*sizes, decoder.stack, decoder.outputs) - embed
    return total
