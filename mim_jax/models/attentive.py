"""The head of an attentive probe: one learned query looks at all tokens, then a linear layer (CAE, section 4.2)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.models.classifier import Classified
from mim_jax.models.probe import ProbeNorm
from mim_jax.nn.cross_attention import CrossAttention
from mim_jax.nn.init import NORMAL, Init
from mim_jax.nn.norms import layer_norm


class AttentivePool(nn.Module):
    """A query (zero at the start) and one cross-attention, without residual or perceptron; float32.

    Query, keys and values have a norm each. heads: of the encoder.
    """

    heads: int
    layer_norm_eps: float = 1e-6
    qkv_bias: str = "qv"

    @nn.compact
    def __call__(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        batch, _, width = tokens.shape
        tokens = tokens.astype(jnp.float32)
        norm = partial(layer_norm, epsilon=self.layer_norm_eps)
        query = jnp.broadcast_to(self.param("query", nn.initializers.zeros, (1, 1, width)), (batch, 1, width))
        attention = CrossAttention(self.heads, qkv_bias=self.qkv_bias, start=Init(kernel=NORMAL), name="attn")
        return attention(norm("norm_q")(query), norm("norm_k")(tokens), norm("norm_v")(tokens))[:, 0]


class AttentiveProbe(nn.Module):
    """`pool` (AttentivePool), `norm` (batch norm without affine, epsilon 1e-5), `head` (weights N(0, 0.01), bias 0).

    Takes the tokens of a frozen encoder after its final norm, cls too. Variables: params/{pool, head} and
    batch_stats/norm/{mean, var}; apply with mutable=["batch_stats"] where train is True.
    """

    classes: int
    heads: int
    layer_norm_eps: float = 1e-6
    qkv_bias: str = "qv"

    def setup(self):
        self.pool = AttentivePool(self.heads, self.layer_norm_eps, self.qkv_bias)
        self.norm = ProbeNorm(epsilon=1e-5)
        self.head = nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, tokens: Float[Array, "B T D"], *, train: bool) -> Classified:
        """Logits, and the features that the linear layer receives."""
        return self.classify(self.pooled(tokens), train=train)

    def pooled(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """One vector per image. Images do not meet here, so a large batch can be pooled in parts."""
        return self.pool(tokens)

    def classify(self, pooled: Float[Array, "B D"], *, train: bool) -> Classified:
        """Logits of pooled vectors; in training they share the statistics of the batch."""
        features = self.norm(pooled, train=train)
        return Classified(self.head(features), features)
