"""What a run of a config would take: parameters, arithmetic, memory, images a second and hours, device by device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mim_jax.data.settings import Settings
from mim_jax.data.split import open_split
from mim_jax.errors import ConfigError, MimError
from mim_jax.methods.base import Method
from mim_jax.training import compile_ahead, roofline
from mim_jax.training.hardware import CHIPS, HERE, Chip, chip
from mim_jax.training.sharding import AXES, batch_shards, replicated, to_mesh
from mim_jax.training.state import run_key
from mim_jax.training.traced import Cost, cost

# Training images of public data sets, for sources that are not on this machine.
KNOWN = {"imagenet2012": 1_281_167, "imagenet-1k": 1_281_167, "cifar10": 50_000, "digits": 1438}
USABLE = 0.95  # share of a chip's memory that the formula fills: the compiler's own buffers and code take the rest


def training_images(config: ConfigDict, given: int | None = None) -> int | None:
    """How many images an epoch has: as given, counted where the source is here, or known by name; else None."""
    if given:
        return given
    try:
        return len(open_split(Settings.from_config(config.data), "pretrain")[1])
    except (MimError, ImportError, OSError, ValueError):
        found = [count for name, count in KNOWN.items() if name in config.data.source]
        return found[0] if found else None


def mesh_sizes(config: ConfigDict, chips: int) -> dict[str, int]:
    """Sizes of the mesh's axes over so many chips.

    Raises:
        ConfigError: a mesh that they do not allow.
    """
    sizes = {axis: int(config.mesh[axis]) for axis in AXES}
    fixed = 1
    for size in sizes.values():
        fixed *= 1 if size == -1 else size
    if chips % fixed or (-1 not in sizes.values() and fixed != chips):
        raise ConfigError(f"mesh {sizes} does not fit {chips} chips; give another --chips, or --config.mesh.data=-1")
    return {axis: chips // fixed if size == -1 else size for axis, size in sizes.items()}


def by_formula(
    config: ConfigDict, method: Method, traced: Cost, device: Chip, chips: int, efficiency: float, per_core: float | int
) -> dict[str, Any]:
    """One device's row, from shapes alone."""
    batch, micro = config.training.batch_size, config.training.accumulate
    sizes = mesh_sizes(config, chips)
    split, images = sizes["fsdp"], batch / (sizes["data"] * sizes["fsdp"])
    work = roofline.Work(
        flops=method.flops() * batch / chips,
        memory_bytes=traced.step_bytes(images, micro, split),
        network_bytes=traced.gradients * (1.5 if split > 1 else 1.0),  # fsdp gathers parameters for both passes
        images=batch / chips,
    )
    precision = config.training.precision
    timed = roofline.step(work, device, chips, precision, efficiency=efficiency, per_core=per_core)
    needed, most = traced.memory(images, micro, split), traced.largest(USABLE * device.memory, micro, split)
    return roofline.as_row(device, chips, batch, timed, work, precision) | {
        "source": "formula",
        "memory_bytes": needed,
        "memory_of_chip": device.memory,
        "fits": needed <= USABLE * device.memory,
        "batch_per_chip": images,
        "largest_batch_per_chip": most,
    }


def by_compiler(
    config: ConfigDict,
    method: Method,
    topology: compile_ahead.Topology,
    efficiency: float,
    per_core: float | int,
    fit: bool,
) -> dict[str, Any]:
    """The row of a topology, from its compiler. fit: search for the largest batch, at a compile a guess."""
    device, chips = topology.chip, len(topology.devices)
    batch, precision = config.training.batch_size, config.training.precision
    found = compile_ahead.compile_step(config, method, topology.devices)
    work = roofline.Work(found.model_flops, found.memory_bytes, found.network_bytes, batch / chips)
    timed = roofline.step(work, device, chips, precision, efficiency=efficiency, per_core=per_core)
    most = None
    if fit:
        most, _ = compile_ahead.largest_batch(config, method, topology.devices, device.memory, found)
    return roofline.as_row(device, chips, batch, timed, work, precision) | {
        "source": "compiler",
        "topology": topology.name,
        "memory_bytes": float(found.memory["total"]),
        "memory": found.memory,
        "memory_of_chip": device.memory,
        "fits": True,
        "batch_per_chip": found.batch_per_chip,
        "largest_batch_per_chip": most,
        "xla_flops": found.xla_flops,
        "xla_bytes_accessed": found.xla_bytes,
        "hbm_bytes": found.memory_bytes,
        "hbm_bytes_of_copies": found.copied,
        "collectives": found.collectives,
        "estimated_cycles": found.estimated_cycles,
    }


def with_hours(row: dict[str, Any], images: int | None, epochs: float) -> dict[str, Any]:
    """A row with the length of the run, where the number of training images is known."""
    if images:
        hours = images / row["images_per_second"] / 3600
        row |= {"hours_per_epoch": hours, "hours": hours * epochs, "chip_hours": hours * epochs * row["chips"]}
    return row


def forecast(
    config: ConfigDict,
    method: Method,
    *,
    devices: Sequence[str] = (),
    chips: int | None = None,
    topology: str = "",
    images: int | None = None,
    efficiency: float = roofline.EFFICIENCY,
    images_per_core: float | int | None = None,
    fit: bool = False,
    measure: int = 0,
) -> dict[str, Any]:
    """Everything `mim-jax plan` prints, ready for JSON.

    devices: names of chips (default: all, and this machine). chips: of each (default: those of the topology, or 8; this
    machine has what it has). measure: steps to take here. fit: see `by_compiler`. images_per_core: images/s that a core
    of the host prepares (default: `roofline.images_per_core`).

    Raises:
        ConfigError: an unknown device or topology, no compiler for it, or a mesh that does not fit.
    """
    target = compile_ahead.tpu_topology(topology) if topology else None
    count = chips or (len(target.devices) if target else 8)
    per_core = images_per_core or roofline.images_per_core(view.array(1) for view in method.views().values())
    wanted = [(device, _devices_here(device) if device.name == HERE else count) for device in named(devices)]
    for _, number in wanted:
        mesh_sizes(config, number)
    traced = cost(config, method)
    length, epochs = training_images(config, images), float(config.training.epochs)
    rows = [by_formula(config, method, traced, device, number, efficiency, per_core) for device, number in wanted]
    if target:
        rows.insert(0, by_compiler(config, method, target, efficiency, per_core, fit))
    result = {
        "method": method.name,
        "precision": config.training.precision,
        "parameters": traced.parameters,
        "flops_per_image": method.flops(),
        "flops_by_module": {
            name: {"forward": part.forward, "backward": part.backward, "recomputed": part.again}
            for name, part in traced.parts.items()
        },
        "mask_ratio": getattr(method, "mask_ratio", None),
        "batch_size": config.training.batch_size,
        "epochs": epochs,
        "training_images": length,
        "assumed": {"efficiency": efficiency, "images_per_core": per_core},
        "rows": [with_hours(row, length, epochs) for row in rows],
    }
    if measure:
        result["measured"] = measured(config, method, traced, measure, efficiency)
    return result


def named(devices: Sequence[str]) -> list[Chip]:
    """Chips by their names; all that are known, and this machine, where none is given.

    Raises:
        ConfigError: no such chip.
    """
    return [chip(name) for name in devices or (*CHIPS, HERE)]


def _devices_here(device: Chip) -> int:
    return 1 if device.platform == "cpu" else len(jax.devices())


def measured(config: ConfigDict, method: Method, traced: Cost, steps: int, efficiency: float) -> dict[str, Any]:
    """Takes a few steps on black images here, and says how far the formula is off.

    error: expected over measured images/s, less one. reached: the share of the roofline that this machine reached.
    """
    lowered = compile_ahead.lower(config, method)
    compiled, mesh = lowered.compile(), lowered.mesh
    shapes = compile_ahead.batch_shapes(config, mesh)
    batch = {name: jax.device_put(jnp.zeros(s.shape, s.dtype), s.sharding) for name, s in shapes.items()}
    state, frozen = lowered.program.init(run_key(config.seed, "init"), batch)
    key = to_mesh(run_key(config.seed, "train"), replicated(mesh))
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, scalars = compiled(state, frozen, batch, key)
        jax.block_until_ready((state, scalars))
        seconds.append(time.perf_counter() - start)
    device, batch_size = chip(HERE), config.training.batch_size
    rate = batch_size / statistics.median(seconds[1:])  # the first step warms up
    count = _devices_here(device)
    expected = by_formula(config, method, traced, device, count, efficiency, float("inf"))
    memory = compile_ahead.report(config, method, lowered, compiled).memory
    return {
        "steps": steps,
        "images_per_second": rate,
        "expected_images_per_second": expected["images_per_second"],
        "error": expected["images_per_second"] / rate - 1,
        "reached": efficiency * rate / expected["images_per_second"],
        "memory_compiled": memory.get("total", 0),
        "memory_expected": traced.memory(batch_size / batch_shards(mesh), config.training.accumulate),
    }
