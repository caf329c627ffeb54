"""The training step of a config compiled without data: for the devices at hand, or for a TPU topology that is not here.

The TPU compiler is part of libtpu and runs on any Linux host; `pip install mim_jax[tpu]` brings it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mim_jax.errors import ConfigError, MimError, nearest
from mim_jax.methods.base import Batch, Method
from mim_jax.training import flops, hlo
from mim_jax.training.hardware import CHIPS, Chip
from mim_jax.training.program import Program, build, step_settings
from mim_jax.training.resolve import Plan, plan
from mim_jax.training.sharding import batch_sharding, batch_shards, make_mesh, replicated
from mim_jax.training.views import Views

# What libtpu asks the machine it stands on. It is told, because this machine is none of those that are compiled for.
QUIET = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it is only asked to compile, which many processes may
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
TPUS = tuple(name for name, chip in CHIPS.items() if chip.platform == "tpu")


class TooLarge(MimError):
    """A step that does not fit a chip's memory. bytes: what the compiler says it would use, where it does."""

    def __init__(self, sentence: str, needed: float | None):
        super().__init__(sentence)
        self.bytes = needed


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that are compiled for. name: as given, such as 'v5e:4x4'."""

    name: str
    chip: Chip
    devices: Sequence[Any]


def chips_of(name: str) -> tuple[str, int]:
    """('v5e', 16) of 'v5e:4x4'.

    Raises:
        ConfigError: not the name of a TPU topology.
    """
    kind, _, shape = name.partition(":")
    if kind not in TPUS:
        raise ConfigError(f"topology '{name}' is of no TPU that is known here{nearest(kind, TPUS)}; e.g. v5e:4x4")
    sizes = shape.split("x")
    wanted = 2 if kind in ("v5e", "v6e") else 3
    if len(sizes) != wanted or not all(size.isdigit() and int(size) for size in sizes):
        example = "4x4" if wanted == 2 else "2x2x4"
        raise ConfigError(f"topology '{name}': {kind} is laid out in {wanted} dimensions, such as {kind}:{example}")
    count = 1
    for size in sizes:
        count *= int(size)
    return kind, count


def has_tpu_compiler() -> bool:
    """Whether libtpu is installed (a mere folder of that name is not)."""
    found = importlib.util.find_spec("libtpu")
    return found is not None and found.origin is not None


def tpu_topology(name: str) -> Topology:
    """A TPU topology by name (`v5e:16x16`, `v4:2x2x4`), without the TPUs.

    Raises:
        ConfigError: an unknown topology, or libtpu is not installed.
    """
    kind, count = chips_of(name)
    if not has_tpu_compiler():
        raise ConfigError(
            f"topology '{name}' needs the TPU compiler, which is not installed: pip install 'mim_jax[tpu]' brings it "
            "(Linux)"
        )
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    # v4's two cores work as one device, as they do on the machines; a part of a host has bounds of its own.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    sizes = [int(size) for size in name.partition(":")[2].split("x")]
    if count < 4:
        options["chips_per_host_bounds"] = (*sizes, *([1] * (3 - len(sizes))))
    try:
        found = topologies.get_topology_desc(topology_name=name, platform="tpu", **options)
    except Exception as error:  # jax gives no narrower class
        reason = str(error).split(": ", 1)[-1].splitlines()[0]
        raise ConfigError(f"topology '{name}' is refused by the TPU compiler: {reason}; give another one") from error
    return Topology(name, CHIPS[kind], list(found.devices))


def batch_shapes(config: ConfigDict, mesh: Mesh) -> Batch:
    """Shapes of a global batch as the data pipeline gives it: stored pixels of every view, record numbers, labels.

    Raises:
        ConfigError: crops made on the device, whose stored size only the data knows.
    """
    if config.data.get("crop_on", "host") != "host":
        raise ConfigError(
            f"data.crop_on = '{config.data.crop_on}' feeds whole images, whose size is not in the config; plan with "
            "--config.data.crop_on=host"
        )
    size, where = config.training.batch_size, batch_sharding(mesh)
    given = Views.from_config(config.data).shapes
    shapes = {name: (view.array(size), jnp.float32 if view.given else jnp.uint8) for name, view in given}
    shapes |= {"index": ((size,), jnp.int32), "label": ((size,), jnp.int32)}
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=where) for name, (shape, dtype) in shapes.items()}


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A step that is ready for the compiler, before any backend has changed it."""

    program: Program
    mesh: Mesh
    lowered: Any

    def compile(self) -> Any:
        """The executable.

        Raises:
            TooLarge: it does not fit a chip.
        """
        here = self.mesh.devices.flat[0].platform == jax.default_backend()
        keep = bool(jax.config.values["jax_enable_compilation_cache"])
        try:
            # A program for chips that are not here can be written to the cache on disk, but not read back.
            jax.config.update("jax_enable_compilation_cache", keep and here)
            return self.lowered.compile()
        except Exception as error:
            text = str(error)
            if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
                raise
            used = re.search(r"Used ([\d.]+)([KMGT]) of", text) or re.search(r"\(([\d.]+)([KMGT])\) exceeds", text)
            needed = float(used.group(1)) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[used.group(2)] if used else None
            said = f" (it needs {needed / 1e9:.1f} GB)" if needed else ""
            raise TooLarge(
                f"the step does not fit a chip's memory{said}; lower training.batch_size, or raise "
                "training.accumulate, mesh.fsdp or model.remat",
                needed,
            ) from error
        finally:
            jax.config.update("jax_enable_compilation_cache", keep)


def lower(config: ConfigDict, method: Method, devices: Sequence[Any] | None = None) -> Lowered:
    """Traces the training step that `mim-jax train` would run on `devices` (default: those at hand).

    Nothing is read and nothing allocated. The length of the run, which needs the data, is that of one epoch of a
    thousand steps: it is a constant in the program and changes neither its shapes nor its cost.

    Raises:
        ConfigError: a batch or mesh that the devices do not allow.
    """
    mesh = make_mesh(config.mesh, devices)
    checked = plan(config, 1000 * config.training.batch_size, mesh)
    run = Plan(checked.steps_per_epoch, checked.total_steps, checked.peak_lr)
    program = build(config, method, step_settings(config, run), mesh, batch_shapes(config, mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))
    platform = mesh.devices.flat[0].platform
    traced = program.step.trace(program.state, program.frozen, batch_shapes(config, mesh), key)
    name = {"gpu": "cuda"}.get(platform, platform)
    return Lowered(program, mesh, traced.lower(lowering_platforms=(name,)))


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compiler says of one step on one chip. Bytes and FLOPs are of one chip.

    memory: see `flops.compiled_memory`. model_flops: `Method.flops()` times images, what an MFU counts. xla_flops,
    xla_bytes: XLA's own counts; a scanned body counts once, a Pallas kernel not at all, and xla_bytes holds on-chip
    traffic too. memory_bytes: to and from HBM, copied: of it, by mere copies (`training.hlo`).
    readable: False where jaxlib cannot print the compiler's program (v5p and v6e with jaxlib 0.10.2): memory_bytes is
    then xla_bytes, an upper bound, and collectives are unknown.
    collectives: {kind: [count, bytes]}. estimated_cycles: the compiler's own estimate, 0 where it makes none.
    """

    chips: int
    batch_per_chip: float
    memory: dict[str, int]
    model_flops: float
    xla_flops: float | None
    xla_bytes: float | None
    memory_bytes: float
    copied: float
    collectives: dict[str, list[int | float]]
    estimated_cycles: float
    loops_unknown: int
    readable: bool = True

    @property
    def network_bytes(self) -> float:
        return float(sum(size for _, size in self.collectives.values()))


def _traffic(compiled: Any) -> hlo.Traffic | None:
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # an older reader of a newer compiler's program
        return None
    return hlo.Program(text).traffic()


def report(config: ConfigDict, method: Method, lowered: Lowered, compiled: Any) -> Report:
    """Reads a compiled step."""
    analysis = compiled.cost_analysis()
    analysis = (analysis[0] if analysis else {}) if isinstance(analysis, list | tuple) else analysis or {}
    moved = _traffic(compiled)
    chips, batch = lowered.mesh.devices.size, config.training.batch_size
    return Report(
        chips=chips,
        batch_per_chip=batch / batch_shards(lowered.mesh),
        memory=flops.compiled_memory(compiled),
        model_flops=method.flops() * batch / chips,
        xla_flops=flops.compiled_flops(compiled),
        xla_bytes=analysis.get("bytes accessed"),
        memory_bytes=moved.memory_bytes if moved else analysis.get("bytes accessed", 0.0),
        copied=moved.copied if moved else 0.0,
        collectives={kind: [count, size] for kind, (count, size) in moved.collectives.items()} if moved else {},
        estimated_cycles=moved.cycles if moved else 0.0,
        loops_unknown=moved.loops_unknown if moved else 0,
        readable=moved is not None,
    )


def compile_step(config: ConfigDict, method: Method, devices: Sequence[Any] | None = None) -> Report:
    """Lowers, compiles and reads the step of a config.

    Raises:
        ConfigError: see `lower`. TooLarge: it does not fit.
    """
    lowered = lower(config, method, devices)
    return report(config, method, lowered, lowered.compile())


def with_batch(config: ConfigDict, size: int) -> ConfigDict:
    """A copy with another global batch."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.training.batch_size = size
    return copy


def largest_batch(
    config: ConfigDict, method: Method, devices: Sequence[Any], memory: float, known: Report, tries: int = 4
) -> tuple[int, Report]:
    """The largest batch per chip whose step fits, and its report, found by a straight line through what was compiled.

    Temporaries grow with the batch and arguments hardly do, so each guess is drawn from the last two compiles; the
    result was compiled, and is a multiple of eight (or of the micro-batches) per chip. Within a few per cent of the
    limit, because every guess costs a compile.
    """
    per_chip = batch_shards(make_mesh(config.mesh, devices))
    unit = max(8, config.training.accumulate)
    best, best_report = round(known.batch_per_chip), known
    low = (known.batch_per_chip, float(known.memory["total"]))
    slope = known.memory["temporaries"] / known.batch_per_chip
    too_large = float("inf")
    for _ in range(tries):
        guess = low[0] + (0.985 * memory - low[1]) / max(slope, 1.0)
        guess = min(guess, (best + too_large) / 2 if too_large < float("inf") else guess)
        guess = int(guess // unit) * unit
        if guess <= best or guess >= too_large or guess < 1.02 * best:
            break
        try:
            found = compile_step(with_batch(config, guess * per_chip), method, devices)
        except TooLarge as error:
            too_large = guess
            if error.bytes:
                slope = max((error.bytes - low[1]) / (guess - low[0]), slope)
            continue
        total = float(found.memory["total"])
        slope = max((total - low[1]) / (guess - low[0]), 1.0)
        low, best, best_report = (float(guess), total), guess, found
    return best, best_report
