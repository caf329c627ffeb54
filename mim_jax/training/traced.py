"""What a step costs by a stated model, read off its traced program in seconds; nothing is compiled.

Arithmetic: every matrix product and convolution, with loops counted as often as they run; by the module it belongs to.
Bytes to and from memory: every product reads its operands and writes its result once; what the forward pass keeps for
the backward pass is written once and read once; the optimizer reads and writes the state and the gradients once each.
Memory: the state, the gradients, and a share of what the forward pass keeps: the residuals of jax.vjp, which know
rematerialisation, times KEPT. How far this is from the compiler is measured in docs/performance.md.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mim_jax.methods.base import Method, Progress
from mim_jax.training.compile_ahead import batch_shapes, with_batch
from mim_jax.training.program import build, step_settings
from mim_jax.training.resolve import Plan
from mim_jax.training.sharding import make_mesh
from mim_jax.training.views import Views

Tree = Any
# The compiler computes cheap residuals anew instead of keeping them. From MAE's steps under v5e's compiler; it is
# not known how well it holds elsewhere.
KEPT = 0.6
SMALL, LARGE = 8, 16  # batches at which a step is traced: what grows between them belongs to the images


@dataclasses.dataclass(frozen=True)
class Part:
    """FLOPs per image of one module: forward, backward, and forward again where it is rematerialised."""

    forward: float = 0.0
    backward: float = 0.0
    again: float = 0.0

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.again


@dataclasses.dataclass(frozen=True)
class Cost:
    """Per image, and per step whatever the batch: bytes of one device that holds all of the state.

    parts: FLOPs per image of the products, by module. product_bytes: (per image, per step). kept: likewise, of what the
    forward pass leaves for the backward pass. state: bytes of parameters, optimizer, averages and extra; gradients;
    frozen; image: of one image as it is fed.
    """

    parts: dict[str, Part]
    product_bytes: tuple[float, float]
    kept: tuple[float, float]
    state: float
    gradients: float
    frozen: float
    image: float
    parameters: int

    def step_bytes(self, images: int | float, micro: int = 1, split: int = 1) -> float:
        """Bytes to and from memory of a step on `images` images per chip. split: chips that share the state."""
        own = self.state / split
        per_image, per_micro = (moved + 2 * kept for moved, kept in zip(self.product_bytes, self.kept, strict=True))
        return images * per_image + micro * per_micro + 2 * own + 2 * self.gradients

    def memory(self, images: int | float, micro: int = 1, split: int = 1) -> float:
        """Bytes that a chip holds at the fullest moment."""
        kept = KEPT * (images / micro * self.kept[0] + self.kept[1])
        sums = self.gradients if micro > 1 else 0.0
        return self.state / split + self.frozen + self.gradients / split + sums + images * self.image + kept

    def largest(self, memory: float, micro: int = 1, split: int = 1) -> int:
        """Images per chip that fit in `memory` bytes."""
        per_image = self.memory(2, micro, split) - self.memory(1, micro, split)
        return max(0, int((memory - self.memory(0, micro, split)) / per_image))


def cost(config: ConfigDict, method: Method) -> Cost:
    """Traces the loss and its gradient at two batches, and the shapes of the state."""
    small, large = (_trace(config, method, size) for size in (SMALL, LARGE))
    parts = {
        name: Part(*((after - before) / (LARGE - SMALL) for before, after in zip(small[0][name], flops, strict=True)))
        for name, flops in large[0].items()
        if name in small[0]
    }
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    batch = batch_shapes(with_batch(config, SMALL), mesh)
    program = build(config, method, step_settings(config, Plan(1000, 1000, 1.0)), mesh, batch)
    gradients = size_of(program.params)
    return Cost(
        parts=dict(sorted(parts.items(), key=lambda item: -item[1].total)),
        product_bytes=_line(small[1], large[1]),
        kept=_line(small[2], large[2]),
        state=size_of(program.state),
        gradients=gradients,
        frozen=size_of(program.frozen),
        image=size_of(batch) / SMALL,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.params)),
    )


def size_of(tree: Tree) -> float:
    """Bytes of a tree of arrays or shapes."""
    return float(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def _line(small: float, large: float) -> tuple[float, float]:
    slope = (large - small) / (LARGE - SMALL)
    return slope, max(small - slope * SMALL, 0.0)


def _trace(config: ConfigDict, method: Method, size: int) -> tuple[dict[str, list[float]], float, float]:
    """({module: [forward, backward, again] FLOPs}, bytes of products, bytes of residuals) of `size` images."""
    views, progress = Views.from_config(config.data), Progress.at(0, 1000, 100)
    batch = {name: jax.ShapeDtypeStruct(view.array(size), jnp.float32) for name, view in views.shapes}
    batch["label"] = jax.ShapeDtypeStruct((size,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    v = jax.eval_shape(method.init, key, batch)
    draws = jax.eval_shape(method.draw, v.params, v.extra, v.frozen, batch, key, progress)

    def loss(params, v, batch, draws):
        value, output = method.forward(params, v.extra, v.frozen, batch, draws, progress)
        return value, output.replace(trace={})

    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(v.params, v, batch, draws).jaxpr
    kept = jax.eval_shape(lambda p, *rest: jax.vjp(lambda q: loss(q, *rest)[0], p)[1], v.params, v, batch, draws)
    parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    moved = _walk(jaxpr, 1.0, parts, "")
    return dict(parts), moved, size_of(kept)


def _walk(jaxpr: Any, times: float, parts: dict[str, list[float]], outer: str) -> float:
    """Adds the products of a jaxpr to `parts`; returns the bytes that they read and write."""
    moved = 0.0
    for eqn in jaxpr.eqns:
        name, kind = f"{outer}/{eqn.source_info.name_stack}", eqn.primitive.name
        if kind in ("dot_general", "conv_general_dilated"):
            count = _dot_flops(eqn) if kind == "dot_general" else _conv_flops(eqn)
            which = 2 if "remat" in name else 1 if "transpose(" in name else 0
            parts[_module(name)][which] += times * count
            arrays = [var.aval for var in (*eqn.invars, *eqn.outvars)]
            moved += times * sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
            continue
        rounds = times * eqn.params.get("length", 1) if kind == "scan" else times
        inner = [_walk(j, rounds, parts, name) for j in _jaxprs(eqn.params)]
        moved += max(inner, default=0.0) if kind == "cond" else sum(inner)
    return moved


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    found = []
    for name, value in params.items():
        if name in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_thunk"):
            continue
        for one in value if isinstance(value, list | tuple) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found


def _module(name: str) -> str:
    """The outermost module on the name stack of an operation."""
    for word in re.findall(r"[A-Za-z_]\w*", name):
        if word not in ("jvp", "transpose", "checkpoint", "remat", "rematted_computation", "jit", "vmap", "pjit"):
            return word if word[0].isupper() else "outside of modules"
    return "outside of modules"


def _dot_flops(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)


def _conv_flops(eqn: Any) -> float:
    """Multiply-adds of a convolution; those with the zeros of a dilated operand are not counted, as XLA does."""
    numbers, out = eqn.params["dimension_numbers"], eqn.outvars[0].aval.shape
    kernel, spatial = eqn.invars[1].aval.shape, numbers.rhs_spec[2:]
    pairs = float(math.prod(kernel[d] for d in spatial)) / math.prod(eqn.params["lhs_dilation"])
    if math.prod(eqn.params["rhs_dilation"]) > 1:  # the gradient of a strided kernel: taps lie apart, none is zero
        pairs = float(math.prod(kernel[d] for d in spatial))
    return 2.0 * math.prod(out) * pairs * kernel[numbers.rhs_spec[1]] / eqn.params["batch_group_count"]
