"""The projection head of DINO and iBOT: an MLP, a unit sphere, and prototypes with weight normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError, check_choices, check_keys
from mim_jax.nn import flops
from mim_jax.nn.init import NORMAL, fan_in_uniform
from mim_jax.nn.norms import unit
from mim_jax.nn.target import split_batch

ACTIVATIONS = {"gelu": lambda x: jax.nn.gelu(x, approximate=False), "relu": jax.nn.relu}
NORMS = ("none", "layer")


class Prototypes(nn.Module):
    """A linear layer without bias whose columns have the lengths `gain` (Salimans and Kingma 2016).

    kernel (D, K) gives directions only; gain (1, K), which starts at 1.
    """

    outputs: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B K"]:
        kernel = self.param("kernel", fan_in_uniform(), (x.shape[-1], self.outputs))
        gain = self.param("gain", nn.initializers.ones, (1, self.outputs))
        matrix = gain * kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)
        return x.astype(self.dtype) @ matrix.astype(self.dtype)


class ProjectionHead(nn.Module):
    """Three linear layers, L2 norm, prototypes for the class token and for the patches (iBOT, section 3.2).

    patch_outputs: 0 gives the patches the class token's own prototypes. norm: one layer norm serves after both hidden
    layers, as the original's does.
    """

    outputs: int = 8192
    patch_outputs: int = 0
    hidden: int = 2048
    bottleneck: int = 256
    activation: str = "gelu"
    norm: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B T D"]) -> tuple[Float[Array, "B K"], Float[Array, "B N P"]]:
        """Logits of the class token, which is the first of the tokens, and of all others (perhaps none)."""

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, kernel_init=NORMAL, name=name)

        norm = (lambda x: x) if self.norm == "none" else nn.LayerNorm(1e-5, use_fast_variance=False, name="norm")
        act, x = ACTIVATIONS[self.activation], tokens.astype(self.dtype)
        for name in ("fc1", "fc2"):
            x = split_batch(act(norm(dense(self.hidden, name)(x))))
        x = unit(dense(self.bottleneck, "fc3")(x))
        last = Prototypes(self.outputs, self.dtype, name="last_layer")
        own = Prototypes(self.patch_outputs, self.dtype, name="last_layer_patches") if self.patch_outputs else last
        return split_batch(last(x[:, 0])), split_batch(own(x[:, 1:]))


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Sizes and switches of the heads of a student and its teacher."""

    outputs: int = 8192  # prototypes of the class token
    patch_outputs: int = 8192  # and of the patches
    shared: bool = True  # patches use the prototypes of the class token
    teacher_shared: bool = True  # those of the teacher do, also where the student's have their own
    hidden: int = 2048
    bottleneck: int = 256
    activation: str = "gelu"  # gelu | relu
    norm: str = "none"  # none | layer
    train_gain: bool = True  # lengths of the prototypes; False: all stay 1 (the original's norm_last_layer)

    @classmethod
    def from_section(cls, values: Mapping[str, Any], where: str = "method.head") -> HeadConfig:
        """From a section of a config.

        Raises:
            ConfigError: an unknown key, or an impossible value or combination.
        """
        check_keys(cls, values, where, "a projection head")
        config = cls(**values)
        for key in ("outputs", "patch_outputs", "hidden", "bottleneck"):
            if getattr(config, key) < 1:
                raise ConfigError(f"{where}.{key} {getattr(config, key)} must be 1 or more")
        check_choices(config, where, activation=ACTIVATIONS, norm=NORMS)
        if config.shared and not config.teacher_shared:
            raise ConfigError(
                f"{where}.teacher_shared False needs {where}.shared False: it follows the student's layer"
            )
        if config.teacher_shared and config.patch_outputs != config.outputs:
            raise ConfigError(
                f"{where}.patch_outputs {config.patch_outputs} must be {where}.outputs {config.outputs} where class "
                "token and patches share a layer"
            )
        return config

    def module(self, teacher: bool = False) -> ProjectionHead:
        """The head of the student, or of the teacher."""
        own = 0 if (self.teacher_shared if teacher else self.shared) else self.patch_outputs
        return ProjectionHead(self.outputs, own, self.hidden, self.bottleneck, self.activation, self.norm)


def head_flops(head: ProjectionHead, width: int, patches: int) -> float:
    """Forward FLOPs of the head on the class token and so many patches."""
    tokens, hidden, bottleneck = 1 + patches, head.hidden, head.bottleneck
    mlp = flops.dense(tokens, width, hidden) + flops.dense(tokens, hidden, hidden)
    mlp += flops.dense(tokens, hidden, bottleneck) + 16 * tokens * hidden
    return mlp + 2 * bottleneck * (head.outputs + patches * (head.patch_outputs or head.outputs))
