"""Forward FLOPs of the layers, a multiply-add counted as two; the small terms count what XLA counts."""

from __future__ import annotations

from mim_jax.nn.block import StackConfig
from mim_jax.nn.mlp import mlp_width


def dense(tokens: int | float, width_in: int, width_out: int) -> float:
    """A linear layer with bias on `tokens` tokens."""
    return float(tokens * width_out * (2 * width_in + 1))


def block(tokens: int | float, width: int, heads: int, mlp_ratio: float = 4.0, mlp: str = "mlp") -> float:
    """A pre-norm transformer block; mlp: see `nn.mlp`."""
    hidden, fan_out = mlp_width(int(width * mlp_ratio), mlp), 1 if mlp == "mlp" else 2
    linear = dense(tokens, width, 3 * width) + dense(tokens, width, width)
    linear += dense(tokens, width, fan_out * hidden) + dense(tokens, hidden, width)
    attention = 4 * tokens * tokens * width + 5 * heads * tokens * tokens
    return linear + attention + 16 * tokens * width + 8 * tokens * hidden


def stack(config: StackConfig, tokens: int | float, width: int) -> float:
    """A stack of equal blocks."""
    inside = 8 * tokens * width * config.attention_norm
    inside += 8 * tokens * mlp_width(int(width * config.mlp_ratio), config.mlp) * config.mlp_norm
    return config.depth * (block(tokens, width, config.heads, config.mlp_ratio, config.mlp) + inside)
