"""A transformer block and a stack of them, looped or scanned, with rematerialisation as a choice."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn.attention import SelfAttention
from mim_jax.nn.drop_path import drop_path, drop_path_rates
from mim_jax.nn.init import INITS, Initializer, side_by_side
from mim_jax.nn.materialize import materialized
from mim_jax.nn.mlp import Mlp, SwiGlu
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.target import split_batch

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """How a stack of equal blocks is built and run.

    scan: run as one scanned block (compile time and program size of one block). Parameters are stacked inside the
        step and stay per block outside, so checkpoints, exports and sharding rules never see the difference.
    remat: none | full | dots: what is recomputed in the backward pass.
    qkv_bias: full | qv | none. layer_scale: start of a learned scale on both branches; 0 leaves it out.
    relative_grid: grid of a relative position bias in every block; None for none. init: a name in `nn.init.INITS`.
    mlp: mlp | swiglu | swiglu_exact; activation: gelu | quick_gelu, of the first (`nn.mlp`).
    mlp_norm, attention_norm: a layer norm before the last layer of the perceptron, and before that of attention.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0
    scan: bool = False
    remat: str = "none"
    dtype: Dtype = jnp.float32
    layer_norm_eps: float = 1e-6
    qkv_bias: str = "full"
    layer_scale: float = 0.0
    relative_grid: tuple[int, int] | None = None
    init: str = "mae"
    mlp: str = "mlp"
    activation: str = "gelu"
    mlp_norm: bool = False
    attention_norm: bool = False

    def block(self, number: int = 0, **placement) -> Block:
        """Block `number` of the stack; `placement`: parent and name."""
        return Block(self, number, **placement)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

    number: from 0; only the initial scale of some families depends on it.
    """

    config: StackConfig
    number: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        bias: Float[Array, "#B #K #T T"] | None = None,
        noise: Float[Array, "B 2"] | None = None,
        rate: float | Float[Array, ""] = 0.0,
        rotary: Float[Array, "2 #B T d"] | None = None,
    ) -> Float[Array, "B T D"]:
        c, width = self.config, x.shape[-1]
        init = INITS[c.init]
        qkv_start, fc1_start, second = self._starts()
        norm = partial(layer_norm, dtype=c.dtype, epsilon=c.layer_norm_eps, bias_init=init.norm_bias)

        def residual(x, branch, index):
            if c.layer_scale:
                gamma = self.param(f"gamma_{index + 1}", nn.initializers.constant(c.layer_scale), (width,))
                branch = branch * gamma.astype(branch.dtype)
            return split_batch(materialized(x + drop_path(branch, None if noise is None else noise[:, index], rate)))

        attention = SelfAttention(
            *(c.heads, c.dtype, c.qkv_bias, c.relative_grid, init, second),
            norm_epsilon=c.layer_norm_eps * c.attention_norm,
            qkv_start=qkv_start,
            name="attn",
        )
        x = split_batch(x)
        x = residual(x, attention(norm("norm1")(x), bias, rotary), 0)
        self.sow("intermediates", "after_attention", x)  # kept where somebody looks (`models.attention_map`)
        kind = (
            partial(Mlp, activation=c.activation) if c.mlp == "mlp" else partial(SwiGlu, exact=c.mlp == "swiglu_exact")
        )
        inside = c.layer_norm_eps * c.mlp_norm
        mlp = kind(
            int(width * c.mlp_ratio), c.dtype, init, second, norm_epsilon=inside, fc1_start=fc1_start, name="mlp"
        )
        return residual(x, mlp(norm("norm2")(x)), 1)

    def _starts(self) -> tuple[Initializer | None, Initializer | None, float]:
        """How the first matrices of both branches start, where not as all do, and the scale of the last ones."""
        c, init = self.config, INITS[self.config.init]
        if not (init.sub_norm and c.mlp_norm):
            separate = side_by_side(init.kernel, (1.0, 1.0, 1.0)) if init.separate_qkv else None
            return separate, None, (2.0 * (self.number + 1)) ** -0.5 if init.rescale else 1.0
        gain = math.sqrt(math.log(2 * c.depth))
        first = (gain,) if c.mlp == "mlp" else (gain, gain)
        return side_by_side(init.kernel, (1.0, 1.0, gain)), side_by_side(init.kernel, first), gain


def run_blocks(
    parent: nn.Module,
    config: StackConfig,
    x: Float[Array, "B T D"],
    noise: Float[Array, "B L 2"] | None = None,
    layers: bool = False,
    bias: Float[Array, "#B #K #T T"] | None = None,
    rotary: Float[Array, "2 #B T d"] | None = None,
    before: int = 0,
) -> tuple[Float[Array, "B T D"], tuple[Float[Array, "B T D"], ...]]:
    """Runs blocks_0, blocks_1, ... of `parent` (inside its compact call).

    Returns the last block's output, and every block's where `layers` asks for them. The noise drives drop path; it is
    ignored where the rate is 0. The bias is added to the attention logits of every block, and `rotary` (`nn.rotary`)
    turns the queries and keys of every block. before: blocks of another kind in front of these, with which they share
    the rates of drop path.
    """
    rates = drop_path_rates(config.drop_path_rate, config.depth, before)
    noise = noise if config.drop_path_rate > 0 else None
    if not parent.is_initializing() and (config.scan or config.remat != "none"):
        params = [parent.variables["params"][f"blocks_{i}"] for i in range(config.depth)]
        return _run_functional(params, config, x, noise, rates, layers, bias, rotary)
    outputs = []
    for i in range(config.depth):
        block = config.block(i, parent=parent, name=f"blocks_{i}")
        x = block(x, bias, None if noise is None else noise[:, i], float(rates[i]), rotary)
        outputs.append(x)
    return x, tuple(outputs) if layers else ()


def _run_functional(params: list, config: StackConfig, x, noise, rates, layers: bool, bias, rotary):
    block = config.block(parent=None)

    def body(x, inputs):
        params, noise, rate = inputs
        x = block.apply({"params": params}, x, bias, noise, rate, rotary)
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
