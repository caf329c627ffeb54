"""The products of a lowered program: what XLA is given, before any backend changes it."""

from __future__ import annotations

import dataclasses
import re

from mim_jax import recipes
from mim_jax.training import compile_ahead

_LINE = re.compile(r"^\s*(?:%(\S+?)(?::\d+)? = )?\"?stablehlo\.(\w+)\"?(.*)$")
_TYPE = re.compile(r"tensor<((?:\d+x)*)(\w+)>")
_NAME = re.compile(r"^(#loc\d*) = loc\((?:\"([^\"]*)\"|.*?(#loc\d+))")
MOVES = ("transpose", "reshape", "broadcast_in_dim", "slice")  # these change no number


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product or convolution: types of its operands, its name, and whether an operand was widened for it."""

    op: str
    types: tuple[str, str]
    sizes: tuple[int, int]
    name: str
    widened: bool


def step_config(method, batch: int = 16, **sections):
    """A run of a (tiny) method: views as it asks for them, on all devices."""
    config = recipes.pretrain()
    config.training.batch_size = batch
    config.training.precision = "bf16"
    config.optimizer.lr_batch = 0
    config.optimizer.warmup_epochs = 0.0
    channels = method.views()["image"].channels
    config.data.channels, config.data.mean, config.data.std = channels, (0.5,) * channels, (0.5,) * channels
    views = {}
    for name, shape in method.views().items():
        views[name] = recipes.view(tuple(shape.size)) | {"count": shape.count, "normalize": shape.normalize}
    with config.unlocked():
        config.data.views = views
        for name, values in sections.items():
            config[name].update(values)
    return config


def lower(method, batch: int = 16, devices=None, **sections) -> compile_ahead.Lowered:
    return compile_ahead.lower(step_config(method, batch, **sections), method, devices)


def products(text: str) -> list[Product]:
    """Of StableHLO with debug information."""
    names = {}
    for line in text.splitlines():
        found = _NAME.match(line)
        if found:
            names[found.group(1)] = found.group(2) or found.group(3) or ""
    result, made = [], {}
    for line in text.splitlines():
        if "func.func" in line:
            made = {}
        found = _LINE.match(line)
        if not found:
            continue
        target, op, rest = found.groups()
        operands = [name.partition("#")[0] for name in re.findall(r"%([\w#]+)", rest)]
        types = [kind for _, kind in _TYPE.findall(rest.rpartition(" : ")[2])]
        if op == "convert":
            made[target] = ("convert", operands[0], types)
        elif op in MOVES:
            made[target] = ("move", operands[0], types)
        elif op in ("dot_general", "convolution"):
            shapes = [dims for dims, _ in _TYPE.findall(rest.rpartition(" : ")[2])]
            sizes = [_size(dims) for dims in shapes[:2]]
            where = re.search(r"loc\((#loc\d*)\)", rest)
            widened = any(_widened(name, made) for name in operands[:2])
            name = names.get(where.group(1), "") if where else ""
            result.append(Product(op, (types[0], types[1]), (sizes[0], sizes[1]), names.get(name, name), widened))
    return result


def _size(dims: str) -> int:
    size = 1
    for dim in dims.split("x"):
        size *= int(dim or 1)
    return size


def _widened(name: str, made: dict) -> bool:
    while name in made:
        kind, source, types = made[name]
        if kind == "convert":
            return types[0] == "bf16" and types[1] == "f32"
        name = source
    return False
