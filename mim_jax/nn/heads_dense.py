"""The dense layer before attention where the heads are spread over devices (Shoeybi et al. 2019, section 3)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from mim_jax.nn.init import Initializer
from mim_jax.nn.target import TENSOR_AXIS, target

ANY = PartitionSpec.UNCONSTRAINED


def heads_are_split(heads: int) -> bool:
    """Whether the program is for a mesh over which the heads are shared out evenly."""
    where = target()
    shards = where.tensor_shards if where is not None else 1
    return shards > 1 and heads % shards == 0


class HeadsDense(nn.Module):
    """`nn.Dense` to `parts` times the width, with its parameters and numbers, given as heads; see `heads_are_split`.

    The columns of a fused kernel lie by part (q, k, v) and then by head, so a device's heads are no one range of
    columns. The kernel is therefore put into the order of heads before the product: it is smaller than the tokens.
    """

    parts: int
    heads: int
    kernel_init: Initializer
    bias_init: Initializer
    use_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "P B K T d"]:
        width = x.shape[-1]
        shape = (width, self.parts, self.heads, width // self.heads)
        kernel = self.param("kernel", self.kernel_init, (width, self.parts * width), jnp.float32)
        kernel = _by_head(kernel.astype(self.dtype).reshape(shape), axis=2)
        out = _by_head(jnp.einsum("btd,dpkh->pbkth", x.astype(self.dtype), kernel), axis=2)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.parts * width,), jnp.float32)
            out = out + bias_of_heads(bias.astype(self.dtype), self.parts, self.heads)
        return out


def bias_of_heads(bias: Float[Array, " E"], parts: int, heads: int) -> Float[Array, "P 1 K 1 d"]:
    """A bias of the fused layer in the layout of `HeadsDense`."""
    return bias.reshape(parts, 1, heads, 1, -1)


def _by_head(x: Array, axis: int) -> Array:
    where = target()
    assert where is not None
    spec = [TENSOR_AXIS if n == axis else ANY for n in range(x.ndim)]
    return jax.lax.with_sharding_constraint(x, NamedSharding(where.mesh, PartitionSpec(*spec)))
