"""Dynamic alignment: a student's layers mixed, and one head for each layer of a teacher (Xue et al. 2023)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn import flops
from mim_jax.nn.mlp import gelu
from mim_jax.nn.norms import layer_norm

FUSIONS = ("linear", "sum", "simple")
HEADS = ("linear", "norm_linear", "mlp", "linear_norm_linear")


class DynamicAlignment(nn.Module):
    """Outputs of a student's blocks to predictions of every block of a teacher.

    layers, outputs: blocks of the teacher and their width. fusion: linear (a learned square matrix over the layers, the
    identity plus 0.01 at the start) | sum (one for any two depths, which starts as the mean) | simple (none).
    head: linear | norm_linear | mlp (linear, GELU, linear) | linear_norm_linear.
    """

    layers: int
    outputs: int
    fusion: str = "linear"
    head: str = "linear"
    dtype: Dtype = jnp.float32
    layer_norm_eps: float = 1e-6

    @nn.compact
    def __call__(self, states: tuple[Float[Array, "B T D"], ...]) -> Float[Array, "L B T V"]:
        """Predictions, float32."""
        mixed = jnp.stack(states)
        if self.fusion != "simple":
            start = nn.initializers.constant(1 / len(states)) if self.fusion == "sum" else _near_identity
            mix = self.param("mix", start, (self.layers, len(states)))
            mixed = jnp.einsum("ab,bntd->antd", mix.astype(mixed.dtype), mixed)
        return jnp.stack([self._head(x, number) for number, x in enumerate(mixed)]).astype(jnp.float32)

    def _head(self, x: Float[Array, "B T D"], number: int) -> Float[Array, "B T V"]:
        def dense(width, name):
            return nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name=name)

        if self.head.startswith(("mlp", "linear_norm")):
            x = dense(x.shape[-1], f"head_{number}_hidden")(x)
        if "norm" in self.head:
            x = layer_norm(f"head_{number}_norm", self.dtype, self.layer_norm_eps)(x)
        return dense(self.outputs, f"head_{number}")(gelu(x) if self.head == "mlp" else x)


def _near_identity(key, shape, dtype=jnp.float32):
    return jnp.eye(*shape, dtype=dtype) + 0.01


def alignment_flops(module: DynamicAlignment, tokens: int, width: int, depth: int) -> float:
    """Forward FLOPs for one image of so many tokens, from a student of `depth` blocks."""
    hidden = flops.dense(tokens, width, width) if module.head in ("mlp", "linear_norm_linear") else 0.0
    mix = 2.0 * depth * tokens * width if module.fusion != "simple" else 0.0
    return module.layers * (mix + hidden + flops.dense(tokens, width, module.outputs))
