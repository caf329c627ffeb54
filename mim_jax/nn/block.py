"""A transformer block and a stack of them, looped or scanned, with rematerialisation as a choice."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn.attention import SelfAttention
from mim_jax.nn.drop_path import drop_path, drop_path_rates
from mim_jax.nn.mlp import Mlp
from mim_jax.nn.norms import layer_norm

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    heads: int
    mlp_ratio: float = 4.0
    dtype: Dtype = jnp.float32
    layer_norm_eps: float = 1e-6

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        noise: Float[Array, "B 2"] | None = None,
        rate: float | Float[Array, ""] = 0.0,
    ) -> Float[Array, "B T D"]:
        normed = layer_norm("norm1", self.dtype, self.layer_norm_eps)(x)
        branch = SelfAttention(self.heads, self.dtype, name="attn")(normed)
        x = x + drop_path(branch, None if noise is None else noise[:, 0], rate)
        normed = layer_norm("norm2", self.dtype, self.layer_norm_eps)(x)
        branch = Mlp(int(x.shape[-1] * self.mlp_ratio), self.dtype, name="mlp")(normed)
        return x + drop_path(branch, None if noise is None else noise[:, 1], rate)


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """How a stack of equal blocks is built and run.

    scan: run as one scanned block (compile time and program size of one block). Parameters are stacked inside the
        step and stay per block outside, so checkpoints, exports and sharding rules never see the difference.
    remat: none | full | dots: what is recomputed in the backward pass.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0
    scan: bool = False
    remat: str = "none"
    dtype: Dtype = jnp.float32
    layer_norm_eps: float = 1e-6

    def block(self, **placement) -> Block:
        """One block of the stack; `placement`: parent and name."""
        return Block(self.heads, self.mlp_ratio, self.dtype, self.layer_norm_eps, **placement)


def run_blocks(
    parent: nn.Module,
    config: StackConfig,
    x: Float[Array, "B T D"],
    noise: Float[Array, "B L 2"] | None = None,
    layers: bool = False,
) -> tuple[Float[Array, "B T D"], tuple[Float[Array, "B T D"], ...]]:
    """Runs blocks_0, blocks_1, ... of `parent` (inside its compact call).

    Returns the last block's output, and every block's where `layers` asks for them. The noise drives drop path; it is
    ignored where the rate is 0.
    """
    rates = drop_path_rates(config.drop_path_rate, config.depth)
    noise = noise if config.drop_path_rate > 0 else None
    if not parent.is_initializing() and (config.scan or config.remat != "none"):
        params = [parent.variables["params"][f"blocks_{i}"] for i in range(config.depth)]
        return _run_functional(params, config, x, noise, rates, layers)
    outputs = []
    for i in range(config.depth):
        block = config.block(parent=parent, name=f"blocks_{i}")
        x = block(x, None if noise is None else noise[:, i], float(rates[i]))
        outputs.append(x)
    return x, tuple(outputs) if layers else ()


def _run_functional(params: list, config: StackConfig, x, noise, rates, layers: bool):
    block = config.block(parent=None)

    def body(x, inputs):
        params, noise, rate = inputs
        x = block.apply({"params": params}, x, noise, rate)
        return x, x if layers else None

    if config.remat != "none":
        body = jax.checkpoint(body, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan)
    by_block = None if noise is None else jnp.moveaxis(noise, 1, 0)
    if config.scan:
        x, outputs = jax.lax.scan(body, x, (stack_blocks(params), by_block, jnp.asarray(rates)))
        return x, tuple(outputs) if layers else ()
    outputs = []
    for i, block_params in enumerate(params):
        x, output = body(x, (block_params, None if by_block is None else by_block[i], rates[i]))
        outputs.append(output)
    return x, tuple(outputs) if layers else ()


def stack_blocks(blocks: list) -> dict:
    """Per-block parameter trees as one tree with a leading layer axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


def unstack_blocks(stacked: dict) -> list:
    """Inverse of `stack_blocks`."""
    depth = jax.tree.leaves(stacked)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(depth)]
